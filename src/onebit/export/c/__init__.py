"""`onebit export --to c`: a folder of plain C99 that needs no library, memory or operating system."""

from __future__ import annotations

import subprocess
import tempfile
from math import prod
from pathlib import Path
from shutil import copytree, which

import numpy as np

from onebit.export.c.folder import write_folder
from onebit.export.c.plan import MAKERS
from onebit.export.target import CannotRun
from onebit.packed import PackedNet, infer

OPERATIONS = tuple(MAKERS)
EXACT = True
RUNS_WITH = "a C compiler"


def write(net: PackedNet, path: Path, *, layout: str = "make") -> None:
    """Write the folder of a net."""
    write_folder(net, path, layout=layout)


def run(net: PackedNet, path: Path, inputs: np.ndarray, *, layout: str = "make") -> dict[str, np.ndarray]:
    """What the program computes that `make` builds; in a copy of the folder."""
    if which("make") is None or which("cc") is None:
        raise CannotRun("make or cc is not installed")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "net"
        copytree(path, place)
        subprocess.run(["make", "-s", "-C", str(place)], check=True, capture_output=True)
        data = np.ascontiguousarray(inputs.astype(inputs.dtype.newbyteorder("<"))).tobytes()
        done = subprocess.run([str(place / "net")], input=data, check=True, capture_output=True)
    return outputs_of(net, done.stdout.decode())


def outputs_of(net: PackedNet, text: str) -> dict[str, np.ndarray]:
    """The outputs by name that the lines of the program hold."""
    known = infer(net)
    numbers = np.array([line.split() for line in text.splitlines()], np.float64).astype(np.float32)
    made, start = {}, 0
    numbers = numbers.reshape(-1, sum(prod(known[name].shape) for name in net.outputs))
    for name in net.outputs:
        shape = known[name].shape
        made[name] = np.ascontiguousarray(numbers[:, start : start + prod(shape)]).reshape(-1, *shape)
        start += prod(shape)
    return made
