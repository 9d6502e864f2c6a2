"""Compiles the C library for tests: with sanitizers, or for another processor."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import onebit
from onebit.native.abi import HASH

SOURCES = Path(onebit.__file__).parent / "native" / "csrc"
FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing"]
PROCESSORS = {"x86_64": "x86", "AMD64": "x86", "aarch64": "arm64", "arm64": "arm64"}
"""The names of machines in instruction_sets.txt."""


def compiled(command: list[str], machine: str, folder: Path) -> list[str]:
    """Object files: the portable kernels and those of each instruction set of a machine that the compiler supports."""
    processor = PROCESSORS.get(machine, "other")
    define = f"-DOB_{processor.upper()}"
    options: dict[str, list[str]] = {"dispatch": [define, f'-DOB_ABI="{HASH}"'], "portable": [], "support": [define]}
    for line in (SOURCES / "instruction_sets.txt").read_text(encoding="utf-8").splitlines():
        kind, *rest = line.split()
        if kind == processor and compiles(command, rest[1:], folder):
            options[rest[0]] = rest[1:]
            options["dispatch"].append(f"-DOB_{rest[0].upper()}")

    def compile_one(name: str) -> str:
        made = str(folder / f"{name}.o")
        source = str(SOURCES / f"{name}.c")
        subprocess.run([*command, *FLAGS, *options[name], "-c", source, "-o", made], check=True)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, options))


def compiles(command: list[str], options: list[str], folder: Path) -> bool:
    """Whether the compiler has these options."""
    empty = folder / "empty.c"
    empty.write_text("int none;")
    done = subprocess.run([*command, *options, "-c", str(empty), "-o", str(folder / "empty.o")], capture_output=True)
    return done.returncode == 0


COMPILER_ARM64, EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
needs_emulator = pytest.mark.skipif(
    COMPILER_ARM64 is None or EMULATOR is None,
    reason="no aarch64-linux-gnu-gcc or no qemu-aarch64: NEON is not tested",
)


def emulated_program(source: str, folder: Path) -> Path:
    """A program of `tests/support` for AArch64, with all of its kernels."""
    assert COMPILER_ARM64 is not None
    objects, program = compiled([COMPILER_ARM64, "-O1"], "aarch64", folder), folder / "emulated"  # half the time of -O2
    command = [COMPILER_ARM64, *FLAGS, "-O1", "-static", f"-I{SOURCES}", str(Path(__file__).parent / source)]
    subprocess.run([*command, *objects, "-lm", "-o", str(program)], check=True)
    return program
