"""`python -m benchmarks NAME`: packed layers beside float32 ones, and the step of each method beside its twin."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import BENCHMARKS, mnist_time, packed_layers, training_step
from benchmarks.__main__ import main, table
from benchmarks.shared import Clock, OwnClock, compare, rows
from benchmarks.training_step import MODES, Steps, measure, recipe_of, twin_of
from onebit.errors import OnebitError
from onebit.layers import binary_layers
from onebit.modules.layers import PackedLinear
from onebit.recipe import methods


def test_without_a_name_it_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert ", ".join(BENCHMARKS) in capsys.readouterr().out
    assert main(["kernel"]) == 2


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_argument_of_a_benchmark_is_a_flag_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["mnist-time", "--flags", "--dataset mnist-sample"],
        ["packed-layers", "--rounds", "2", "--seconds", "0.000001"],
        pytest.param(["startup", "--rounds", "1"], marks=pytest.mark.nightly),  # processes that import torch
    ],
    ids=lambda words: words[0],
)
def test_it_prints_json_and_a_table(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packed_layers, "DENSE", (64, (2,)))
    monkeypatch.setattr(packed_layers, "BLOCK", (64, (5,)))
    monkeypatch.setattr(mnist_time, "TARGETS", {92: mnist_time.TARGETS[92]})
    monkeypatch.setattr(mnist_time, "SEEDS", (0,))
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() >= {"benchmark", "machine", "settings", "rows"}
    for row in result["rows"]:
        assert all(value > 0 for key, value in row.items() if key.endswith(("us", "speedup", "seconds")))
    if words[0] == "packed-layers":
        assert main(words) == 0
        assert len(capsys.readouterr().out.splitlines()) > 1 + len(result["rows"])


def test_a_column_without_a_value_is_left_out() -> None:
    rows = [{"net": "mlp", "ms": 1.25, "int8": None}, {"net": "a longer one", "ms": None}]
    shown = table(rows, {"net": "", "ms": ".2f", "int8": ".1f"})
    assert shown.splitlines() == ["net             ms", "mlp           1.25", "a longer one"]


def test_calls_take_turns_and_the_ratios_are_those_of_rounds() -> None:
    order: list[str] = []
    took = {"ours": iter([1.0, 4.0, 2.0]), "theirs": iter([3.0, 8.0, 10.0]), "slow": iter([9.0, 9.0, 9.0])}
    calls = {name: lambda name=name: (order.append(name), next(took[name]))[1] for name in took}
    times = Clock(rounds=3).time(calls, OwnClock)
    assert order == [*took] * 3
    (row,) = rows(times, ["ours"], "ms", best=["slow", "theirs"], int8=[])
    assert row == {
        "variant": "ours", "ms": 2e3, "fastest_ms": 1e3, "best": "theirs", "best_ms": 8e3, "best_speedup": 3.0
    }  # fmt: skip
    assert Clock(rounds=2, seconds=0).time({"nothing": list})["nothing"].shape == (2,)


@pytest.mark.parametrize("found", [[1.0, 2.1], [1.0, np.nan]])
def test_other_outputs_are_refused(found: list[float]) -> None:
    assert compare("same", [1.0, 2.1], [1.0, 2.0], 0.06) == pytest.approx(0.05)
    with pytest.raises(OnebitError, match="differ"):
        compare("other", found, [1.0, 2.0], 0.04)


# -------------------------------------------------------------------------------------------------------- packed layers
@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_layers, "DENSE", (64, (1,)))
    monkeypatch.setattr(packed_layers, "BLOCK", (64, (5,)))


def test_each_case_has_a_row() -> None:
    dense, block = packed_layers.measure(clock=Clock(rounds=1, seconds=0.0))
    assert (dense["case"].split()[0], block["case"].split()[0]) == ("dense", "ViT")
    assert 1 / 32 < dense["weights_to_float32"] < 1 / 10


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: 1.01 * forward(self, x))
    with pytest.raises(OnebitError, match="dense"):
        next(packed_layers.measure(clock=Clock(rounds=1)))


# -------------------------------------------------------------------------------------------------------- training step
CPU = torch.device("cpu")
EAGER: dict[str, Any] = {"mode": MODES["eager"], "precision": "fp32", "device": CPU}


def test_every_case_is_measured_against_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "images_per_second", partial(training_step.images_per_second, batches=1))
    methods, modes = ["binaryconnect", "react"], ["eager", "without-kernels"]
    few: dict[str, Any] = {"precisions": ["fp32"], "clock": Clock(rounds=1, seconds=0.0)}
    flags = "--model.widths 784,8,10 --batch_size 4"
    *rows, augmentation = measure(methods=methods, modes=modes, flags=flags, profile=True, **few)
    assert [(row["mode"], row["method"]) for row in rows] == [(mode, of) for mode in modes for of in methods]
    for row in rows:
        longest = list(row["longest"].values())
        assert longest == sorted(longest, reverse=True)
        assert len(longest) == 10
    rows += measure(nets=["resnet20"], methods=["react"], flags="--model.width 0.0625 --batch_size 4", **few)
    assert all(row["ratio"] == pytest.approx(row["ms"] / row["twin_ms"]) for row in rows)
    assert augmentation["images_per_second"] > 0


def test_a_twin_is_the_same_net_without_quantizers() -> None:
    for method in methods():
        recipe = recipe_of("resnet20", method)
        twin = twin_of(recipe)
        assert twin.model.weight_quantizer is twin.model.input_quantizer is None
        assert (twin.model.activation, twin.model.bireal) == (recipe.model.activation, recipe.model.bireal)
    steps = Steps(twin, **EAGER)
    assert not list(binary_layers(steps.forward))


@pytest.mark.parametrize("mode", ["eager", "without-kernels"])
def test_plain_torch_steps_without_the_kernels_of_onebit(mode: str) -> None:
    steps = Steps(recipe_of("mlp", "binaryconnect", "--model.widths 784,8,10"), **EAGER | {"mode": MODES[mode]})
    seen = []
    steps.forward.register_forward_hook(lambda *_: seen.append(os.environ["ONEBIT_NATIVE"]))
    steps.take(1)
    assert seen == ["1" if mode == "eager" else "0"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_by_glibc() -> None:
    # in a process of its own: the setting cannot be taken back
    code = """
import resource
from onebit.common.memory import keep_freed_memory
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(6_000_000, dtype=np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
assert keep_freed_memory()
np.ones(6_000_000, dtype=np.float32)
print(given_back, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < 1_000
    assert kept < given_back
