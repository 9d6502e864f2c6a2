"""What the tests of the benchmarks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """`measure` sets the threads of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
