"""What the tests of the benchmarks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`measure` sets the threads of the process, and whether it uses the kernels of onebit."""
    monkeypatch.setenv("ONEBIT_NATIVE", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
