"""The export target `torch`: a ±1 state_dict, and a program in plain torch that loads it."""

from __future__ import annotations

import io
import json
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from onebit.export.comparison import run_in_batches
from onebit.export.plain_torch.layers import LAYERS
from onebit.export.plain_torch.program import Program
from onebit.export.tools import require
from onebit.packed import PackedNet

OPERATIONS = LAYERS.keys()
EXACT = False
"""torch adds real numbers in another order; sums of integers are exact."""
RUNS_WITH = "torch"
BATCH = 50


def write(net: PackedNet, path: Path) -> None:
    """Write the weights to `path` and the program to `path` with the suffix .py."""
    program = Program(net, suffix=path.suffix)
    path.with_suffix(".py").write_text(program.text(), encoding="utf-8", newline="\n")
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        order = json.dumps({"order": list(program.state)})  # safetensors sorts the tensors
        path.write_bytes(save(program.state, metadata={"onebit": order}))
    else:
        import torch

        stream = io.BytesIO()  # on a full disk, torch raises no OSError
        torch.save({name: torch.tensor(array) for name, array in program.state.items()}, stream)
        path.write_bytes(stream.getvalue())


def run(net: PackedNet, path: Path, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Run the program on `inputs`, in batches."""
    require("torch", find=find_spec)
    import torch

    with torch.random.fork_rng(devices=[]):  # new layers draw random weights
        model: Any = runpy.run_path(str(path.with_suffix(".py")))["load"](path)

    def compute(*batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model(*(torch.from_numpy(np.ascontiguousarray(part)) for part in batch))
        return {name: value.numpy() for name, value in net.by_name(outputs).items()}

    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        return run_in_batches(compute, inputs, BATCH)
