"""Fixtures of the tests of run folders."""

from __future__ import annotations

from support.toy_training import data, no_waiting_for_the_disk

__all__ = ["data", "no_waiting_for_the_disk"]
