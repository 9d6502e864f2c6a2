"""`python -m benchmarks packed-layers` compares layers that hold bits with float32 ones."""

from __future__ import annotations

import pytest

from benchmarks import packed_layers
from benchmarks.shared import Clock
from onebit.errors import OnebitError
from onebit.runtime.torch_layers import PackedLinear


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
