"""Inputs of the kernels of a training step, and the thread that they are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal numbers in channels_last."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x
