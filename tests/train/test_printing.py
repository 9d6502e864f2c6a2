"""The printed progress of a run, with the line of `onebit.check`, which changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.layers import BinaryLinear
from onebit.train.printing import packing_lines
from support.heads import Two
from support.samples import VALUES, Augmented, Drawing, X, Y, loader, train, trained
from support.tensors import same

WHOLE = "check: 1 of 3 layers binary (51.6 % of weights); packs whole"


def printed(capsys: pytest.CaptureFixture[str], epochs: int = 0) -> list[str]:
    """The printed lines of `onebit.check`; all output is on stderr, and has a row for each of so many epochs."""
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f" {epoch}/{epochs} " in err for epoch in range(1, epochs + 1))
    return [line for line in err.splitlines() if line.startswith("check: ")]


def test_each_form_of_data_gives_the_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    for data in ((X, Y), loader(), loader(Augmented())):
        train(data, verbose=True, epochs=2)
        assert printed(capsys, 2) == [WHOLE]
    for verbose in (False, None):
        train((X, Y), verbose=verbose, epochs=1)
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("data", [(X, Y), Augmented()], ids=["arrays", "a data set that draws"])
def test_a_training_with_the_line_has_the_same_bits(data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert same(trained(data, verbose=True, epochs=2), trained(data, epochs=2))
    assert printed(capsys) == [WHOLE]
    models = []
    for verbose in (True, False):
        models.append(Drawing())
        train(data, model=models[-1], verbose=verbose, epochs=2)
    assert same(models[0].state_dict(), models[1].state_dict())
    assert models[0].calls == models[1].calls
    assert len(printed(capsys)) == 1


class Tricky(nn.Module):
    """Cannot be copied, and its layers cannot be listed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = BinaryLinear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)

    def __deepcopy__(self, memo: Any) -> Tricky:
        raise RuntimeError("no copies\nof this")


def test_a_model_that_cannot_be_checked_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    train((X, Y), model=Tricky(), verbose=True, epochs=1)
    (line,) = printed(capsys)
    assert "no copies" in line


def test_several_inputs_are_arguments_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    train(loader([*zip(zip(X, VALUES, strict=True), Y, strict=True)]), model=Two(), verbose=True, epochs=1)
    (line,) = printed(capsys)
    assert "packs whole" in line


def test_models_of_onebit_are_checked_by_their_input_shape() -> None:
    # a U-Net with valid padding takes tiles, whatever the size of the images is
    tiled = onebit.create_model("unet", input_shape=(1, 16, 16), width=1 / 32, padding="valid")
    assert packing_lines(tiled, torch.zeros(2, 1, 16, 16, dtype=torch.uint8))[0].endswith("; packs whole")
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    whole = "check: 2 of 2 layers binary (100.0 % of weights); packs whole"
    assert packing_lines(onebit.create_model("mlp", widths=(784, 8, 10)), images) == [whole]
    assert packing_lines(onebit.create_model("lenet", weight_quantizer=None), images) == []
    (line,) = packing_lines(nn.Linear(12, 3), torch.zeros(2, 12))
    assert "no binary layer" in line
