"""`python -m benchmarks nets` times packed nets whose logits are right, and float nets that are the same nets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import nets
from benchmarks.nets import FLOOR, NETS, Sign, build, float_nets, float_twin, make_images
from benchmarks.shared import Call, Clock
from onebit.errors import OnebitError
from onebit.layers import BinaryLayer
from onebit.native import NativePlan, instruction_sets
from support.covering import covering

TINY = 0.02
native = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


def quick(name: str, *batches: int, onnx: bool = False, threads: int = 1) -> list[dict[str, Any]]:
    model, clock = build(NETS[name], width=TINY), Clock(2, 1e-6, threads)
    rows = list(nets.time_net(name, model, batches, onnx=onnx, clock=clock))
    assert json.dumps(rows)
    return rows


@native
@pytest.mark.parametrize("name", covering(NETS, heavy={"resnet20-weights", "resnet20-8bit", "mlp-weights"}))
def test_every_variant_is_a_row(name: str) -> None:
    found = quick(name, 1, 3)
    assert {(row["net"], row["batch"]) for row in found} == {(name, 1), (name, 3)}
    for batch in (1, 3):
        rows = [row for row in found if row["batch"] == batch]
        variants = [row["variant"] for row in rows]
        assert variants[0] == FLOOR
        assert [variant for variant in variants if variant in instruction_sets()] == list(instruction_sets())
        assert (nets.INT8 in variants) == (NETS[name].activations is not None)
        assert all(0 < row["fastest_us"] <= row["us"] for row in rows)
        assert rows[0]["torch_speedup"] == 1
        assert any(row["best_speedup"] == 1 for row in rows)


@native
def test_both_onnx_files_are_timed_and_equal() -> None:
    rows = {row["variant"]: row for row in quick("mlp-signs", 3, onnx=True, threads=2)}
    assert rows[nets.FLOAT_FILE]["file_speedup"] == 1
    assert rows[nets.FILE]["file_speedup"] > 0


@native
def test_a_wrong_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., tuple[np.ndarray, bool]] = NativePlan.run

    def wrong(plan: NativePlan, images: np.ndarray, **parts: int) -> tuple[np.ndarray, bool]:
        logits, nan = right(plan, images, **parts)
        logits[-1, 3] = np.nextafter(logits[-1, 3], np.inf)  # of the last image alone, by the least there is
        return logits, nan

    monkeypatch.setattr(NativePlan, "run", wrong)
    with pytest.raises(OnebitError, match="reference"):
        quick("mlp-signs", 9)


@native
def test_a_float_net_with_other_labels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(twin: nn.Module, x: torch.Tensor) -> Iterator[tuple[str, Call]]:
        for variant, call in float_nets(twin, x):
            yield variant, call if variant == FLOOR else lambda call=call: -call()

    monkeypatch.setattr(nets, "float_nets", other)
    with pytest.raises(OnebitError, match="labels"):
        quick("mlp-weights", 6)


@native
def test_what_torch_does_not_freeze_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: nn.Module) -> nn.Module:
        raise RuntimeError

    monkeypatch.setattr(torch.jit, "optimize_for_inference", refuse)
    expected = [FLOOR, "folded", *instruction_sets(), nets.ALONE]
    assert [row["variant"] for row in quick("mlp-signs", 1)] == expected


@pytest.mark.parametrize("name", covering(NETS, heavy={"vgg-signs", "resnet20-8bit", "mlp-8bit", "mlp-weights"}))
def test_float_nets_are_plain_and_give_the_same_logits(name: str) -> None:
    model = build(NETS[name], width=TINY)
    images, twin = make_images(model, 4), float_twin(model)
    assert not any(isinstance(layer, BinaryLayer) for layer in twin.modules())
    assert any(isinstance(layer, Sign) for layer in twin.modules()) == (NETS[name].inputs is not None)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
        found = {variant: call().numpy() for variant, call in float_nets(twin, torch.from_numpy(images))}
    assert len(found) == (3 if name.startswith("mlp") else 6)
    for variant, logits in found.items():
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), err_msg=variant)


def test_nets_are_the_same_each_time_and_their_signs_balanced() -> None:
    model = build(NETS["vgg-signs"], width=0.1)
    again = build(NETS["vgg-signs"], width=0.1)
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    shares: list[float] = []
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, x, made: shares.append(float((made >= 0).float().mean())))
    model(torch.from_numpy(make_images(model, 16)))
    assert len(shares) == 6
    assert all(0.2 < share < 0.8 for share in shares)
