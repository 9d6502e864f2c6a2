"""Fixtures of the tests of training and of run folders."""

from __future__ import annotations

import pytest

import onebit.common.files
from onebit.data import Dataset, make_toy


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of tiny files are written here; that they are synced is tested with `onebit.common.files`."""
    monkeypatch.setattr(onebit.common.files, "_fsync", lambda path, flags: None)


@pytest.fixture(scope="module")
def data() -> Dataset:
    train, test = make_toy(128, 64)
    return Dataset("toy", train, test[:32], test[32:], tuple("abcd"))
