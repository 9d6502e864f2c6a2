"""The GPU of these tests; `ONEBIT_TEST_DEVICE=stand-in` names a device that every machine has, see `stand_in`."""

from __future__ import annotations

import os

import pytest
import torch

from support.stand_in import add_device


@pytest.fixture(scope="session")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> torch.device:
    if os.environ.get("ONEBIT_TEST_DEVICE") == "stand-in":
        return add_device(tmp_path_factory.mktemp("stand-in"))
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU on this machine")
    torch.backends.cudnn.allow_tf32 = False  # as the CPU computes
    return torch.device("cuda", 0)


@pytest.fixture
def cuda(gpu: torch.device) -> torch.device:
    """A GPU of CUDA, for what a stand-in cannot tell."""
    if gpu.type != "cuda":
        pytest.skip("needs a GPU of CUDA")
    return gpu
