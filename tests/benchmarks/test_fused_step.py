"""The benchmark of fused training steps: what it runs, and that it leaves the environment as it was."""

from __future__ import annotations

import os

import pytest

import onebit
from benchmarks import fused_step
from onebit.errors import UsageError


def test_both_ways_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_step, "NETS", (("resnet14", "sign", 0.5),))
    monkeypatch.setenv("ONEBIT_NATIVE", "1")
    rounds: list[tuple[int, int]] = []
    result = fused_step.measure(rounds=2, batch=4, default_malloc=True, on_round=lambda *at: rounds.append(at))
    assert rounds == [(1, 2), (2, 2)]
    (row,) = result["rows"]
    assert row["torch_ms"] > 0
    assert row["fused_ms"] > 0
    assert row["ratio"] > 0
    assert os.environ["ONEBIT_NATIVE"] == "1"
    assert "resnet14, sign, width 0.5" in fused_step.describe(result)
    with pytest.raises(UsageError, match="1 or more"):
        fused_step.measure(rounds=0)
    monkeypatch.setattr(onebit.native, "instruction_sets", dict)
    with pytest.raises(UsageError, match="the native library is not installed"):  # or plain torch is timed twice
        fused_step.measure(rounds=1)
