"""The moving average of weights: its formula, and the files of a run with one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from onebit.evaluation.modes import evaluate, reestimate_batch_norm_
from onebit.quantizers import UInt4
from onebit.train.average import WeightAverage
from onebit.train.weights import read_state, read_weights
from support.toy_training import CASES, DATA, build


def test_the_average_is_its_formula() -> None:
    model = build(CASES["sign"]).model
    average = WeightAverage(model, 0.9)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(step)
        average.update()
        for name, tensor in model.state_dict().items():
            real = tensor.is_floating_point()
            expected[name] = 0.9 * expected[name] + 0.1 * tensor if real else tensor.clone()
    assert average.state.keys() == expected.keys()
    for name, tensor in average.state.items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name


@pytest.mark.parametrize("range_rule", ["lsq", "follow"])
def test_the_average_of_a_range_limit_starts_at_its_first_value(range_rule: str) -> None:
    quantizer = UInt4(range=range_rule)
    for model, name in ((nn.Sequential(quantizer), "0.limit"), (quantizer, "limit")):
        quantizer.limit.data.zero_()
        average = WeightAverage(model, 0.9)
        average.update()
        assert float(average.state[name]) == 0  # not set
        for limit, expected in ((3.0, 3.0), (5.0, 3.2)):
            quantizer.limit.data.fill_(limit)
            average.update()
            assert float(average.state[name]) == pytest.approx(expected)


def test_a_buffer_that_forward_replaces_is_averaged() -> None:
    model = nn.Module()
    model.register_buffer("seen", torch.zeros(2))
    average = WeightAverage(model, 0.75)
    model.seen = model.seen + 4
    average.update()
    assert average.state["seen"].tolist() == [1, 1]
    with average.applied():
        assert model.seen.tolist() == [1, 1]
    assert model.seen.tolist() == [4, 4]
    average.copy_to_model()
    assert model.seen.tolist() == [1, 1]


def test_the_average_is_validated_saved_and_read(tmp_path: Path) -> None:
    toy = build(CASES["sign"])
    history = toy.fit(DATA, tmp_path, ema=0.5, epochs=1)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    final, _ = read_weights(tmp_path / "final.safetensors")
    assert final.keys() == held["average"].keys()
    moved = 0
    for name, tensor in final.items():
        assert torch.equal(tensor, toy.model.state_dict()[name])
        if ".running_" in name or name.endswith(".num_batches_tracked"):
            continue  # re-estimated
        assert torch.equal(tensor, held["average"][name])
        moved += not torch.equal(tensor, held["model"][name])
    assert moved > 5  # training itself goes on from the weights
    score = evaluate(toy.model, DATA.validation, loss="squared_hinge")
    assert score.error == pytest.approx(history.rows[-1].validation_error)
    state, _ = read_state(tmp_path / "last.ckpt")
    assert all(torch.equal(tensor, held["average"][name]) for name, tensor in state.items())


@pytest.mark.parametrize("case", ["sign", "real"])
def test_the_average_has_the_batch_norm_statistics_of_its_weights(tmp_path: Path, case: str) -> None:
    """No training step saw its signs: averages of the statistics of training belong to other nets."""
    toy = build(CASES[case])
    toy.fit(DATA, tmp_path, ema=0.5, epochs=1)
    final, best = (read_weights(tmp_path / f"{name}.safetensors")[0] for name in ("final", "best"))
    reestimate_batch_norm_(toy.model, DATA.train)
    expected = toy.model.state_dict()
    statistics = [name for name in final if ".running_" in name]
    assert len(statistics) > 1
    for name in statistics:
        assert torch.allclose(final[name], expected[name], atol=1e-5), name
        assert torch.equal(best[name], final[name])
