"""What runs packed nets here: numpy, and each instruction set of this processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from onebit.native import instruction_sets

EXECUTORS = ["reference", *instruction_sets()]


@contextmanager
def chosen(executor: str) -> Iterator[None]:
    """Run nets and packed layers with one of EXECUTORS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEBIT_NATIVE", "0" if executor == "reference" else "1")
        patch.setenv("ONEBIT_ISA", "" if executor == "reference" else executor)
        yield
