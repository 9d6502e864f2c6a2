"""`python -m benchmarks nets` times packed nets whose logits are right, and float nets that are the same nets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from covering import covering
from torch import nn

from benchmarks import nets, twins
from benchmarks.__main__ import main
from benchmarks.nets import describe, measure
from benchmarks.twins import FLOOR, NETS, Sign, build, float_nets, float_twin, folded, make_images
from onebit.errors import OnebitError, UnknownNameError, UsageError
from onebit.layers import BinaryLayer
from onebit.native import NativePlan, instruction_sets

TINY = 0.02
FIELDS = {
    *("net", "batch", "variant", "instruction_set", "us", "fastest_us", "torch_speedup", "torch_fastest_speedup"),
    *(
        "best_speedup",
        "best_fastest_speedup",
        "best",
        "int8_speedup",
        "label_mismatches",
        "packed_bytes",
        "float_bytes",
    ),
}
native = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


def quick(**options: Any) -> dict[str, Any]:
    return measure(**{"width": TINY, "rounds": 2, "seconds": 1e-6, "default_malloc": True, **options})


@native
@pytest.mark.parametrize("name", covering(NETS, heavy={"resnet20-weights", "resnet20-8bit"}))
def test_every_variant_is_a_row(name: str) -> None:
    told: list[tuple[int, int]] = []
    result = quick(nets=[name], batches=[1, 3], on_round=lambda *news: told.append(news))
    assert json.dumps(result)
    assert told == [(1, 2), (2, 2)] * 2
    assert {(row["net"], row["batch"]) for row in result["rows"]} == {(name, 1), (name, 3)}
    for batch in (1, 3):
        rows = [row for row in result["rows"] if row["batch"] == batch]
        assert all(set(row) == FIELDS and 0 < row["fastest_us"] <= row["us"] for row in rows)
        assert [row["variant"] for row in rows if row["instruction_set"]] == list(instruction_sets())
        assert rows[0]["variant"] == FLOOR
        assert rows[0]["torch_speedup"] == 1
        (best,) = (row for row in rows if row["best"])
        assert best["instruction_set"] is None
        assert best["best_speedup"] == best["best_fastest_speedup"] == 1
        int8 = {row["variant"]: row["int8_speedup"] for row in rows}
        if NETS[name].activations is None:
            assert set(int8.values()) == {None}
        else:
            assert int8[nets.INT8] == 1
            assert int8[nets.EXACT] > 0
        numbers = build(NETS[name], width=TINY).state_dict().values()
        assert rows[0]["float_bytes"] == sum(4 * t.numel() for t in numbers if t.is_floating_point())
        assert rows[0]["packed_bytes"] > 0
    assert f"{name}, batch 3" in describe(result)


@native
@pytest.mark.nightly  # daily one thread
def test_threads_share_the_images() -> None:
    assert quick(nets=["mlp-signs"], batches=[5], threads=2)["machine"]["threads"] == 2


@native
def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["nets", "--width", "0.02", "--rounds", "1", "--seconds", "1e-6", "--default-malloc"]
    assert main([*options, "--nets", "mlp-weights,mlp-signs", "--batches", "1"]) == 0
    found = capsys.readouterr().out
    assert "mlp-weights, batch 1" in found
    assert "mlp-signs, batch 1" in found
    assert main([*options, "--nets", "mlp-weights", "--batches", "2", "--json"]) == 0
    assert {row["batch"] for row in json.loads(capsys.readouterr().out)["rows"]} == {2}
    assert main([*options, "--nets", "mlp-wieghts"]) == 2
    assert "did you mean 'mlp-weights'?" in capsys.readouterr().err


@native
@pytest.mark.parametrize("name", ["mlp-weights", "mlp-signs"])
def test_a_wrong_kernel_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., tuple[np.ndarray, bool]] = NativePlan.run

    def wrong(plan: NativePlan, images: np.ndarray, *, parts: int = 1) -> tuple[np.ndarray, bool]:
        logits, nan = right(plan, images, parts=parts)
        logits[-1, 3] = np.nextafter(logits[-1, 3], np.inf)  # of the last image alone, by the least there is
        return logits, nan

    monkeypatch.setattr(NativePlan, "run", wrong)
    with pytest.raises(
        OnebitError, match=rf"{name}, batch 9, \w+: the logits of 1 of 4 images are not those of the ref"
    ):
        quick(nets=[name], batches=[9])


@native
def test_a_float_net_with_other_labels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(twin: nn.Module, images: np.ndarray) -> Iterator[tuple[str, twins.Call]]:
        for variant, call in float_nets(twin, images):
            yield variant, call if variant == FLOOR else lambda call=call: -call()

    monkeypatch.setattr(nets, "float_nets", other)
    with pytest.raises(OnebitError, match="mlp-weights, batch 6, folded: 6 of 6 labels are not those of plain torch"):
        quick(nets=["mlp-weights"], batches=[6])


@native
def test_what_torch_does_not_freeze_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: nn.Module) -> nn.Module:
        raise RuntimeError

    monkeypatch.setattr(torch.jit, "optimize_for_inference", refuse)
    rows = quick(nets=["vgg-signs"], batches=[1])["rows"]
    expected = [FLOOR, "folded", "torch, channels_last", "folded, channels_last", *instruction_sets(), nets.ALONE]
    assert [row["variant"] for row in rows] == expected


@pytest.mark.parametrize("name", covering(NETS, heavy={"vgg-signs", "resnet20-8bit"}))
def test_float_nets_are_plain_and_give_the_same_logits(name: str) -> None:
    model = build(NETS[name], width=TINY)
    images, twin = make_images(model, 4), float_twin(model)
    assert not any(isinstance(layer, BinaryLayer) for layer in twin.modules())
    assert any(isinstance(layer, Sign) for layer in twin.modules()) == (NETS[name].inputs is not None)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    found = dict(float_nets(twin, images))
    assert len(found) == (3 if name.startswith("mlp") else 6)
    for variant, call in found.items():
        np.testing.assert_allclose(call(), expected, atol=1e-4 * np.abs(expected).max(), err_msg=variant)


@pytest.mark.parametrize(("name", "left"), [("mlp-signs", 0), ("resnet20-weights", 0), ("vgg-signs", 3)])
def test_batch_norm_is_folded_where_a_layer_stands_before_it(name: str, left: int) -> None:
    twin = float_twin(build(NETS[name], width=TINY))
    before = len(list(twin.modules()))
    norms = [m for m in folded(twin).modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert len(norms) == left  # behind a pool
    assert len(list(twin.modules())) == before


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


def test_wrong_numbers_and_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"rounds": 0}, {"batches": [0]}, {"threads": 0}, {"seconds": 0}):
        with pytest.raises(UsageError, match="must be positive"):
            quick(**options)
    with pytest.raises(UnknownNameError, match="unknown net 'lenet'"):
        quick(nets=["lenet"])
    monkeypatch.setattr("onebit.native.instruction_sets", dict)
    with pytest.raises(UsageError, match="the native library is not installed"):
        quick()
