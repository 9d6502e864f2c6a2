"""The benchmark of the training step: every case has a ratio to its twin."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import training_step
from benchmarks.shared import Clock
from benchmarks.training_step import MODES, Steps, measure, recipe_of, twin_of
from onebit.layers import binary_layers
from onebit.recipe import methods

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
