"""The benchmark of a GPU, on a CPU: every case has a ratio to its twin, and what does not fit is named."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from onebit.recipe import methods


def test_a_twin_is_the_same_net_without_quantizers() -> None:
    for method in methods():
        recipe = gpu.recipe_of("resnet20", method)
        twin = gpu.twin_of(recipe)
        assert twin.model.weight_quantizer is twin.model.input_quantizer is None
        assert (twin.model.activation, twin.model.bireal) == (recipe.model.activation, recipe.model.bireal)
        steps = gpu.build(twin, "resnet20", precision="fp32", mode="eager", device=torch.device("cpu"))
        assert not list(gpu.onebit.layers.binary_layers(steps.forward))


def test_the_first_cases_are_the_most_telling() -> None:
    every = list(gpu.cases(["mlp", "resnet20"], ["binaryconnect", "bop"]))
    assert every[0] == ("mlp", "bf16", "eager", "binaryconnect")
    assert len(every) == len(set(every)) == 12  # 4 in two precisions, and 2 compiled in two ways


@pytest.mark.nightly
def test_steps_are_measured_and_what_is_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = gpu.measure(nets=["mlp"], methods=["binaryconnect"], minutes=0, rounds=1, device="cpu")
    assert result["rows"] == []
    assert len(result["left"]) == 4
    monkeypatch.setattr(gpu, "COMPILED", ())
    result = gpu.measure(nets=["mlp"], methods=["binaryconnect"], minutes=0.02, rounds=2, device="cpu")
    row = result["rows"][0]
    assert row["ratio"] == pytest.approx(row["ms"] / row["twin_ms"], rel=0.5)
