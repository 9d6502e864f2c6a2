"""The table of export targets."""

from __future__ import annotations

from onebit.export.target import Target

EXPORTS: dict[str, Target] = {}
"""Name -> target of `onebit export NET --to NAME`."""
