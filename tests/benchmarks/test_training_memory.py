"""The benchmark of memory: what tensors take is counted exactly, and each net is looked at in its own process."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering

from benchmarks import training_memory
from benchmarks.training_memory import describe, measure, tensor_peak, train_here
from benchmarks.variants import FLOOR, settings_of
from onebit.errors import OnebitError, UsageError

MEGABYTE = 1 << 20


def test_the_most_that_tensors_take_at_one_time_is_counted() -> None:
    kept = []

    def work() -> None:
        kept.append(torch.empty(MEGABYTE, dtype=torch.uint8))
        for _ in range(3):  # one after the other
            torch.empty(2 * MEGABYTE, dtype=torch.uint8)
        kept.append(torch.empty(MEGABYTE, dtype=torch.uint8))

    gc.collect()
    assert tensor_peak(work) == 3 * MEGABYTE


def test_one_process_for_each_net_and_ratios_to_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def process(settings: dict[str, Any]) -> dict[str, int]:
        asked.append(settings)
        twin = settings["variant"] == FLOOR
        return {"tensor_bytes": 100 if twin else 103, "resident_bytes": 200 + 100 * (len(asked) > 6)}

    monkeypatch.setattr(training_memory, "_in_a_process", process)
    result = measure(model="resnet20", width=0.5, variants=["sign"], rounds=2, batch=4)
    settings = settings_of("resnet20")
    assert [row["variant"] for row in result["rows"]] == [FLOOR, "sign"] * len(settings)
    assert [row["tensor_ratio"] for row in result["rows"]] == [1, 1.03] * len(settings)
    assert len(asked) == 2 * 2 * len(settings)
    assert {(a["model"], a["width"], a["batch"]) for a in asked} == {("resnet20", 0.5, 4)}
    text = describe(result)
    assert "peak memory of training resnet20, width 0.5, batch 4" in text
    assert "median of 2 processes of 3 steps" in text


SMALL = {
    "variant": "sign",
    "precision": "fp32",
    "memory_format": "channels_last",
    "model": "resnet20",
    "width": 1 / 16,
    "batch": 2,
    "steps": 1,
    "threads": 1,
    "default_malloc": False,
}


@pytest.mark.nightly  # daily the same function trains in this process, and another process fails
def test_a_process_trains_and_tells() -> None:
    found = training_memory._in_a_process(SMALL)
    assert 0 < found["tensor_bytes"] < 50 * MEGABYTE
    assert found["resident_bytes"] > 0


def test_a_process_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "CHILD", "raise ValueError('no memory is left')")
    with pytest.raises(OnebitError, match=r"^sign in fp32 does not train: no memory is left$"):
        training_memory._in_a_process(SMALL)


def test_a_system_that_does_not_tell_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training_memory, "STATUS", tmp_path / "status")
    with pytest.raises(UsageError, match="only Linux has"):
        measure(rounds=1)
    with pytest.raises(UsageError, match="1 or more"):
        measure(steps=0)


def test_a_binary_net_takes_the_tensors_of_its_twin_and_its_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.common.memory.keep_freed_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    twin, sign = (train_here(**{**SMALL, "variant": variant})["tensor_bytes"] for variant in (FLOOR, "sign"))
    assert twin <= sign < 1.5 * twin


@pytest.mark.parametrize("precision", covering(["fp32", "bf16"], heavy={"bf16"}))
def test_recomputed_binary_activations_take_no_more_than_real_ones(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onebit.common.memory.keep_freed_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    of = {"precision": precision, "memory_format": "channels_last", "model": "resnet20", "width": 0.25, "batch": 16}
    twin, bnn = (
        train_here(**{**SMALL, **of, "variant": variant})["tensor_bytes"] for variant in (FLOOR, "bnn-recompute")
    )
    assert bnn < 1.05 * twin
