"""Instructions, stack, flash and RAM of a packed net that `onebit export --to c` wrote, on an emulated Cortex-M4."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

import numpy as np

from onebit.errors import OnebitError
from onebit.export import c
from onebit.export.c.size import COMPILER, CORTEX_M4, FLAGS, linked
from onebit.export.writing import random_inputs
from onebit.packed import costs, load
from onebit.runtime import run

PROGRAM = Path(__file__).parent / "cortex_m4_program"
EMULATOR = "qemu-system-arm"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off")


class OnBoard(NamedTuple):
    """Outputs (N, numbers) of the inputs; instructions for the last one; bytes of stack below `main`."""

    outputs: np.ndarray
    instructions: int
    stack: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("net", metavar="NET", help="a packed net: a file, or the name of one that comes with onebit")
    parser.add_argument("--optimize", default="O2", metavar="LEVEL", help="of the compiler, such as Os (default: O2)")


def measure(*, net: str, optimize: str = "O2", on_round: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Export a net, run it on one random input, and compare every bit.

    Raises:
        OnebitError: the compiler or the emulator is not installed or fails, or the bits differ.
    """
    for tool in (COMPILER, EMULATOR):
        if which(tool) is None:
            raise OnebitError(f"{tool} is not installed")
    level = optimize.lstrip("-")
    packed = load(net)
    inputs = random_inputs(packed, 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "net"
        folder.mkdir()
        c.write(packed, folder)
        found = on_cortex_m4(folder, inputs, Path(temporary), f"-{level}")
        flash, static, stack = linked(folder)
    expected = packed.by_name(run(packed, inputs))
    flat = np.concatenate([expected[name].reshape(1, -1) for name in packed.outputs], axis=1)
    if found.outputs.tobytes() != flat.astype(np.float32).tobytes():
        raise OnebitError("the exported net gives other bits on a Cortex-M4; please report this")
    if on_round is not None:
        on_round(1, 1)
    macs = sum(row.macs for row in costs(packed))
    rows = {"instructions": found.instructions, "macs": macs, "stack": found.stack}
    return {"net": net, "optimize": f"-{level}", **rows, "flash": flash, "static": static, "most_stack": stack}


def describe(result: dict[str, Any]) -> str:
    """The result in words."""
    return (
        f"{result['net']}, every bit equal to the packed net\n"
        f"{result['instructions']:,} instructions at {result['optimize']}, {result['macs']:,} multiply-accumulates\n"
        f"flash at -Os: {result['flash']:,} bytes\n"
        f"RAM: {result['static']:,} bytes, and {result['stack']:,} of stack"
    )


def on_cortex_m4(folder: Path, inputs: np.ndarray, place: Path, optimize: str) -> OnBoard:
    """Run the net.c of a folder on inputs (N, …), without an operating system; `place` is for other files."""
    data = np.ascontiguousarray(inputs).tobytes()
    words = np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), "<u4")
    array = ",".join(map(str, words))
    (place / "inputs.h").write_text(
        f"#include <stdint.h>\n#define INPUTS {len(inputs)}\nstatic const uint32_t inputs[] = {{{array}}};\n"
    )
    net, program = str(place / "net.o"), str(place / "program.elf")
    compiler = [COMPILER, *CORTEX_M4, *FLAGS[3:], optimize]
    _compile([*compiler, *STRICT, "-c", str(folder / "net.c"), "-o", net])
    link = ["-Wl,--gc-sections", "-nostartfiles", "--specs=nano.specs", "-T", str(PROGRAM / "memory.ld")]
    sources = [str(PROGRAM / "start.c"), str(PROGRAM / "main.c"), net]
    _compile([*compiler, *link, f"-I{place}", f"-I{folder}", *sources, "-o", program])
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


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OnebitError(f"{COMPILER}: {(done.stderr or done.stdout).strip().partition(chr(10))[0]}")
