"""`onebit export --to c`: a folder of plain C99 that needs no library, no heap and no operating system."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from shutil import copytree, which

import numpy as np

from onebit.errors import OnebitError, short
from onebit.export.c.folder import template, write as write
from onebit.export.c.plan import MAKERS, Planner
from onebit.export.c.size import measure
from onebit.export.comparison import split_outputs
from onebit.export.targets import CannotRun
from onebit.packed import PackedNet

OPERATIONS = tuple(MAKERS)
EXACT = True
RUNS_WITH = "a C compiler"
_OF_SHELLS = ("CC", "CFLAGS", "LDFLAGS", "MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKEFILES")
"""Variables that make follows: in a shell for another processor, the program would not run here."""
_EMPTY_PROGRAM = b"#include <stdint.h>\n#include <stdio.h>\nint main(void) { return 0; }\n"


def run(net: PackedNet, path: Path, inputs: np.ndarray, *, layout: str = "make") -> dict[str, np.ndarray]:
    """What the program computes that `make` builds in a copy of the folder."""
    for tool in ("make", "cc"):
        if which(tool) is None:
            raise CannotRun(f"{tool} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        empty = ["cc", "-x", "c", "-std=c99", "-", "-o", f"{folder}/empty"]
        if subprocess.run(empty, input=_EMPTY_PROGRAM, capture_output=True).returncode:
            raise CannotRun("cc compiles not even an empty program")
        copytree(path / "src" if layout == "arduino" else path, folder, dirs_exist_ok=True)
        if layout == "arduino":
            for name in ("main.c", "Makefile"):
                (Path(folder) / name).write_text(template(name), encoding="ascii")
        _checked(["make", "-s", "-C", folder], b"")
        data = np.ascontiguousarray(inputs, dtype=inputs.dtype.newbyteorder("<")).tobytes()
        numbers = _checked([f"{folder}/net"], data).split()
    # float64 holds integers of 32 bits and every float32 exactly; the latter have 9 digits
    return split_outputs(net, np.array(numbers, np.float64).astype(np.float32).reshape(len(inputs), -1))


def _checked(command: list[str], given: bytes) -> bytes:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_SHELLS}
    done = subprocess.run(command, input=given, capture_output=True, env=environment)
    if done.returncode:
        said = (done.stderr.decode("utf-8", "replace").strip() or "nothing").splitlines()[0]
        raise OnebitError(f"the exported program fails: {Path(command[0]).name} says {short(said)}; please report this")
    return done.stdout


def report(net: PackedNet, path: Path, *, layout: str = "make") -> str:
    """Flash, RAM and multiply-accumulates of an exported net; measured for a Cortex-M4 where its compiler is here."""
    return measure(Planner(net), path / "src" if layout == "arduino" else path)
