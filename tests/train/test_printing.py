"""What a training says: progress with the line of `onebit.check`, and mistakes that keep a model from learning."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.layers import BinaryLinear, binarize_
from onebit.train.printing import packing_lines
from support.heads import Two
from support.samples import VALUES, Augmented, Drawing, X, Y, loader, train, trained
from support.tensors import same
from support.toy_training import DATA

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


@pytest.mark.parametrize("data", [(X, Y), Augmented(), loader(Augmented())], ids=["arrays", "draws", "loader"])
def test_neither_the_line_nor_the_search_for_mistakes_changes_a_bit(
    data: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, states = [], []
    for told in (True, False):
        if not told:
            monkeypatch.setattr("onebit.train.planning.mistakes", lambda *_: [])
        models.append(Drawing())
        train(data, model=models[-1], verbose=told, epochs=2)
        assert len(printed(capsys)) == told
        states.append(models[-1].state_dict() | {"trained": trained(data, epochs=1, verbose=told)["0.weight"]})
        assert printed(capsys) == [WHOLE] * told
    assert same(*states)


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


# ------------------------------------------------------------------------------------------------------------ mistakes
def warnings_of(model: nn.Module, data: Any = None, **options: Any) -> list[str]:
    """The warnings of a training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train((X, Y) if data is None else data, model=model, epochs=2, **options)
    assert all(warning.category is UserWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def behind_a_relu(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    between = [nn.ReLU(), nn.BatchNorm1d(16)] if norm else [nn.BatchNorm1d(16), nn.ReLU()]
    net = nn.Sequential(nn.Linear(12, 16), *between, nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    return binarize_(net, input_quantizer="ste_sign").model


@pytest.mark.parametrize(
    ("data", "verbose"),
    [((X, Y), False), (loader(), True), (loader(Augmented()), False)],
    ids=["arrays", "loader", "draws"],
)
def test_signs_behind_a_relu_are_warned_about_once(data: Any, verbose: bool) -> None:
    (found,) = warnings_of(behind_a_relu(), data, verbose=verbose)
    assert found.endswith(": 3")


def test_a_net_without_binary_layers_is_warned_about() -> None:
    assert "no binary layer" in warnings_of(nn.Linear(12, 3))[0]
    assert warnings_of(nn.Sequential(BinaryLinear(12, 3, weight_quantizer=None))) == []


@pytest.mark.filterwarnings("error")
def test_nets_that_are_real_on_purpose_give_no_warning() -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
    onebit.Trainer(nn.Linear(12, 3), "real", **settings).fit((X, Y), verbose=False)
    onebit.Trainer(nn.Sequential(nn.Flatten(), onebit.Normalize(0.5, 0.5), nn.Linear(64, 4)), "real", **settings).fit(
        DATA, verbose=False
    )
    real = onebit.create_model("mlp", widths=(64, 8, 4), weight_quantizer=None)
    optimizer = torch.optim.Adam(onebit.latent_groups(real, lr=0.01))
    onebit.fit(real, DATA, optimizer, epochs=1, verbose=False)
