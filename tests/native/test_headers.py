"""The headers of the C library: each includes what it uses, and the portable names of isa.h suffice for all kernels."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from onebit.native import library
from onebit.native.abi import HASH
from support.compiling import COMPILER_ARM64, FLAGS, PROCESSORS, SOURCES, compiles
from support.executors import assert_agrees, reference
from support.kernel_nets import kernel_nets, scaled_net
from support.packed_nets import inputs_of

COMPILER = shutil.which(os.environ.get("CC", "cc")) or ""
pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler")
HEADERS = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.h"))
LINES = (SOURCES / "instruction_sets.txt").read_text(encoding="utf-8").splitlines()[1:]
OPTIONS = {name: (processor, options) for processor, name, *options in map(str.split, LINES)}
COMPILERS = {"arm64": COMPILER_ARM64, PROCESSORS.get(platform.machine()): COMPILER}
OF_AVX2 = ("avx2.h", "dot_few.h", "training/signs.h", "training/product.h", "training/dense_gradient.h")
NEEDED = dict.fromkeys(OF_AVX2, "avx2") | dict.fromkeys(("avx512.h", "dot_lut.h"), "avx512bw")
NEEDED |= dict.fromkeys(
    ("amx.h", "training/pieces.h", "training/convolution.h", "training/weight_gradient.h"), "amx"
) | {"neon.h": "neon"}
"""The instruction sets of headers that name their instructions."""

PORTABLE = """
#define DOT_FOURS 1
#include "engine.h"
const ob_isa ob_portable = ISA("portable");
"""


@pytest.mark.parametrize("header", HEADERS)
def test_each_header_includes_what_it_uses(header: str, tmp_path: Path) -> None:
    processor, options = OPTIONS[NEEDED[header]] if header in NEEDED else (None, [])
    compiler = COMPILERS.get(processor) if processor else COMPILER
    if compiler is None or not compiles([compiler], options, tmp_path):
        pytest.skip(f"no compiler for {NEEDED[header]}")
    strict = ["-fsyntax-only", "-Werror=implicit-function-declaration"]
    twice = f'#include "{header}"\n' * 2
    command = [compiler, *FLAGS, *options, *strict, f"-I{SOURCES}", "-x", "c", "-"]
    done = subprocess.run(command, input=twice, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_file_without_names_of_its_own_has_the_bits_of_the_reference(tmp_path: Path) -> None:
    (tmp_path / "portable.c").write_text(PORTABLE)
    sources = [str(tmp_path / "portable.c"), str(SOURCES / "dispatch.c")]
    command = [COMPILER, *FLAGS, "-O1", "-fPIC", "-shared", f"-I{SOURCES}", f'-DOB_ABI="{HASH}"', *sources, "-lm"]
    subprocess.run([*command, "-o", str(tmp_path / "portable.so")], check=True)
    isa = library.compiled_sets(ctypes.CDLL(str(tmp_path / "portable.so")))["portable"]
    nets = [*kernel_nets(), scaled_net(128, 5, 70)]
    for net in nets:
        images = inputs_of(net, 5)
        assert assert_agrees(net, images, reference(net, images), isa)
