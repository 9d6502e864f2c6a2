"""A second device without a GPU: the memory and kernels of the CPU behind a device type of its own.

As on a GPU, tensors of two devices do not go together, and numpy cannot read them. It stands in for one where the code
of these tests, and everything they call, is rehearsed; streams, speed and numbers of a GPU it does not have.
"""

from __future__ import annotations

import subprocess
import types
from pathlib import Path
from typing import Any

import torch

NAME = "standin"
SOURCE = Path(__file__).with_name("stand_in.cpp")


def add_device(folder: Path) -> torch.device:
    """Compile the device into `folder`, which takes 10 seconds, and make it known to torch."""
    library, home = folder / "stand_in.so", Path(torch.__file__).parent
    includes = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}"]
    links = [f"-L{home / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    command = ["g++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", str(SOURCE), "-o", str(library), *includes, *links]
    subprocess.run(command, check=True)
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    module: Any = types.ModuleType(f"torch.{NAME}")
    module.is_available, module.device_count, module.current_device = lambda: True, lambda: 1, lambda: 0
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module._is_in_bad_fork, module.manual_seed_all = lambda: False, lambda seed: None
    torch._register_device_module(NAME, module)
    return torch.device(NAME, 0)
