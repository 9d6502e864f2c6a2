"""Fixtures of the training tests."""

from __future__ import annotations

import pytest

import onebit.files


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of tiny files are written here; that they are synced is tested with `onebit.files`."""
    monkeypatch.setattr(onebit.files, "_fsync", lambda path, flags: None)
