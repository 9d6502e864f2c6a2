"""Instructions, stack, flash and RAM of a packed net that `onebit export --to c` wrote, on an emulated Cortex-M4."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.shared import Rows
from onebit.errors import OnebitError
from onebit.export.c import target as c
from onebit.export.c.size import COMPILER, CORTEX_M4, FLAGS, linked
from onebit.export.tools import output_of
from onebit.packed import costs, load
from onebit.runtime import run
from onebit.runtime.timing import noise

PROGRAM = Path(__file__).parent / "cortex_m4_program"
EMULATOR = "qemu-system-arm"
COLUMNS = {"net": "", "instructions": ",", "macs": ",", "flash": ",", "static": ",", "stack": ",", "most_stack": ","}
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off")


class OnBoard(NamedTuple):
    """Outputs (N, numbers) of the inputs; instructions for the last one; bytes of stack below `main`."""

    outputs: np.ndarray
    instructions: int
    stack: int


def measure(nets: Sequence[str], *, optimize: str = "O2") -> Rows:
    """Export each net, run it on one random input, and compare every bit; OnebitError if one differs.

    Args:
        nets: packed nets: files, or names of those that ship
        optimize: level of the compiler, such as Os
    """
    for name in nets:
        net = load(name)
        inputs = noise(net, 1)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "net"
            folder.mkdir()
            c.write(net, folder)
            found = on_cortex_m4(folder, inputs, Path(temporary), f"-{optimize}")
            flash, static, stack = linked(folder)
        expected = net.by_name(run(net, inputs))
        flat = np.concatenate([expected[output].reshape(1, -1) for output in net.outputs], axis=1)
        if found.outputs.tobytes() != flat.astype(np.float32).tobytes():
            raise OnebitError(f"{name}: the exported net gives other bits on a Cortex-M4")
        row = {"net": name, "instructions": found.instructions, "macs": sum(row.macs for row in costs(net))}
        yield row | {"stack": found.stack, "flash": flash, "static": static, "most_stack": stack}


def on_cortex_m4(folder: Path, inputs: np.ndarray, build: Path, optimize: str) -> OnBoard:
    """Run the net.c of a folder on inputs (N, …), without an operating system; `build` is for other files."""
    data = np.ascontiguousarray(inputs).tobytes()
    words = np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), "<u4")
    array = ",".join(map(str, words))
    (build / "inputs.h").write_text(
        f"#include <stdint.h>\n#define INPUTS {len(inputs)}\nstatic const uint32_t inputs[] = {{{array}}};\n"
    )
    net, program = str(build / "net.o"), str(build / "program.elf")
    compiler = [COMPILER, *CORTEX_M4, *FLAGS[3:], optimize]
    output_of([*compiler, *STRICT, "-c", str(folder / "net.c"), "-o", net])
    link = ["-Wl,--gc-sections", "-nostartfiles", "--specs=nano.specs", "-T", str(PROGRAM / "memory.ld")]
    sources = [str(PROGRAM / "start.c"), str(PROGRAM / "main.c"), net]
    output_of([*compiler, *link, f"-I{build}", f"-I{folder}", *sources, "-o", program])
    board = [EMULATOR, "-M", "mps2-an386", "-nographic", "-semihosting", "-icount", "shift=0", "-kernel", program]
    done = subprocess.run(board, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    numbers, _, rest = (done.stdout + done.stderr).partition("instructions")
    if not rest:
        raise OnebitError(f"the program on the Cortex-M4 stopped: {(done.stderr or done.stdout)[:200]!r}")
    instructions, _, stack = rest.split()
    bits = np.array([int(line, 16) for line in numbers.split()], np.uint32)
    floats = "NET_OUTPUT_IS_FLOAT 1" in (folder / "net.h").read_text()
    outputs = bits.view(np.float32 if floats else np.int32).astype(np.float32)
    return OnBoard(outputs.reshape(len(inputs), -1), int(instructions, 16), int(stack, 16))
