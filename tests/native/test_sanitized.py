"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer: no access out of bounds, nothing undefined."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import compiled
from kernel_nets import kernel_nets

from onebit.native import instruction_sets

COMPILER = shutil.which(os.environ.get("CC", "cc"))
pytestmark = pytest.mark.skipif(COMPILER is None or not instruction_sets(), reason="no C compiler")

SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# runs in a process of its own, into which the sanitizer is loaded first
NETS = """
import sys
import numpy as np
from onebit.native import library
sanitized = library.ctypes.CDLL(sys.argv[1])
library.ctypes.CDLL = lambda path: sanitized
from kernel_nets import images_of, kernel_nets
from onebit.native import instruction_sets, make_plan
from onebit.runtime import run

nets = kernel_nets()
for net in nets:
    images = images_of(net, 5)
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
    library = tmp_path / "sanitized.so"
    objects = compiled([COMPILER, "-g", "-O1", "-fPIC", *SANITIZE], platform.machine(), tmp_path)
    subprocess.run([COMPILER, "-shared", *SANITIZE, *objects, "-o", str(library)], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps memory to its end
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in Path(__file__).parents[:2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", NETS, str(library)], env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(len(kernel_nets())), *instruction_sets()]
