"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer: no access out of bounds, nothing undefined."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import onebit
from onebit.native import instruction_sets

SOURCES = Path(onebit.__file__).parent / "native" / "csrc"
COMPILER = shutil.which(os.environ.get("CC", "cc"))
pytestmark = pytest.mark.skipif(COMPILER is None or not instruction_sets(), reason="no C compiler")

SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-g", "-O1", "-std=c11", "-fPIC", "-ffp-contract=off", *SANITIZE]
OF_ISA = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mpopcnt"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq", "-mfma"],
}

# runs in a process of its own, into which the sanitizer is loaded first
NETS = """
import sys
import numpy as np
from onebit.native import library
sanitized = library.ctypes.CDLL(sys.argv[1])
library.ctypes.CDLL = lambda path: sanitized
from packed_nets import IMAGE_NETS, Builder
from onebit.native import instruction_sets, make_plan
from onebit.packed import Conv, Dense, Flatten, RealConv, Relu, Sign
from onebit.runtime import run

def wide(channels, outputs, form, value):
    b = Builder((channels, 5, 7))
    if form == "sign":
        b.threshold(channels, most=200)
    if form == "real":
        b.affine(channels)
    geometry = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "padding_value": value}
    b.add(Conv, **b.signs(outputs, 9 * channels, centre=value > 0), **geometry)
    b.affine(outputs)
    b.add(Relu)
    b.add(RealConv, weight=b.real(17, 4 * outputs), kernel=(2, 2))
    b.add(Sign, shift=b.real(17))
    b.add(Flatten)
    b.add(Dense, **b.signs(35, b.values[b.last].shape[0]))
    return b.net()

nets = [make(seed) for make in IMAGE_NETS.values() for seed in range(2)]
for form in ("sign", "integer", "real"):
    for channels, outputs in ((1, 1), (3, 16), (33, 37), (64, 130)):
        nets += [wide(channels, outputs, form, value) for value in (0, 1)]
for net in nets:
    images = np.random.default_rng(0).integers(0, 256, (5, *net.input.shape), dtype=np.uint8)
    expected = run(net, images, executor="reference")
    for isa in instruction_sets().values():
        plan = make_plan(net, isa)
        plan.plan.batch = min(plan.plan.batch, 3)
        assert np.array_equal(plan.run(images)[0], expected), isa.name
print(len(nets), *instruction_sets())
"""


def test_no_access_out_of_bounds_and_nothing_undefined(tmp_path: Path) -> None:
    assert COMPILER is not None
    runtime = subprocess.run([COMPILER, "-print-file-name=libasan.so"], text=True, capture_output=True, check=True)
    # gcc names the bare file where it has none, and clang builds its own into programs
    if not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer to load")
    x86 = platform.machine() in ("x86_64", "AMD64")
    names = ["dispatch", *(OF_ISA if x86 else ["portable"])]
    objects = []
    for name in names:
        objects.append(str(tmp_path / f"{name}.o"))
        flags = [*FLAGS, *(["-DOB_X86"] if x86 else []), *OF_ISA.get(name, [])]
        subprocess.run([COMPILER, *flags, "-c", str(SOURCES / f"{name}.c"), "-o", objects[-1]], check=True)
    library = tmp_path / "sanitized.so"
    subprocess.run([COMPILER, "-shared", *SANITIZE, *objects, "-o", str(library)], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps memory to its end
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", NETS, str(library)], env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["28", *instruction_sets()]
