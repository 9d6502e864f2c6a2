"""`onebit export --to c`: a folder of plain C99 that needs no library, no heap and no operating system."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from shutil import copytree

import numpy as np

from onebit.export.c.folder import template, write as write
from onebit.export.c.plan import MAKERS
from onebit.export.c.size import report as report
from onebit.export.comparison import split_outputs
from onebit.export.targets import CannotRun
from onebit.export.tools import output_of, require
from onebit.packed import PackedNet

OPERATIONS = tuple(MAKERS)
EXACT = True
RUNS_WITH = "a C compiler"
_SHELL_VARIABLES = ("CC", "CFLAGS", "LDFLAGS", "MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKEFILES")
"""Variables that make reads: in a shell set up for another processor, the program would not run here."""
_EMPTY_PROGRAM = b"#include <stdint.h>\n#include <stdio.h>\nint main(void) { return 0; }\n"


def run(net: PackedNet, path: Path, *inputs: np.ndarray, layout: str = "make") -> dict[str, np.ndarray]:
    """What the program computes that `make` builds in a copy of the folder."""
    require("make", "cc")
    with tempfile.TemporaryDirectory() as folder:
        # without a C library, the net is written but not compared
        output_of(["cc", "-x", "c", "-std=c99", "-", "-o", f"{folder}/empty"], _EMPTY_PROGRAM, error=CannotRun)
        copytree(path / "src" if layout == "arduino" else path, folder, dirs_exist_ok=True)
        if layout == "arduino":
            for name in ("main.c", "Makefile"):
                (Path(folder) / name).write_text(template(name), encoding="ascii")
        environment = {name: value for name, value in os.environ.items() if name not in _SHELL_VARIABLES}
        output_of(["make", "-s", "-C", folder], env=environment)
        rows = np.concatenate([part.reshape(len(part), -1) for part in inputs], axis=1)
        data = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).tobytes()
        numbers = output_of([f"{folder}/net"], data).split()
    # float64 holds integers of 32 bits and every float32 exactly; the latter have 9 digits
    return split_outputs(net, np.array(numbers, np.float64).astype(np.float32).reshape(len(rows), -1))
