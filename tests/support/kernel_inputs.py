"""Inputs of the kernels of a training step, and the threads and instruction sets that run them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from onebit.native import instruction_sets

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, params=["default", "threads", *instruction_sets()])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, three, and each instruction set."""
    threads, patch = torch.get_num_threads(), pytest.MonkeyPatch()
    torch.set_num_threads(3 if request.param == "threads" else 1)
    if request.param in instruction_sets():
        patch.setenv("ONEBIT_ISA", request.param)
    yield
    torch.set_num_threads(threads)
    patch.undo()


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal numbers in channels_last."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x
