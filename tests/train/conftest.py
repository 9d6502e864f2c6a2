"""Fixtures of the tests of training."""

from __future__ import annotations

from support.toy_training import data, no_waiting_for_the_disk

__all__ = ["data", "no_waiting_for_the_disk"]
