"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer: no access out of bounds, no undefined behavior."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onebit.native import instruction_sets
from support.compiling import SOURCES, compiled
from support.kernel_nets import kernel_nets

COMPILER = shutil.which(os.environ.get("CC", "cc"))
pytestmark = pytest.mark.skipif(COMPILER is None or not instruction_sets(), reason="no C compiler")

SANITIZE = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]

# runs in its own process, which loads the sanitizer first
NETS = """
import sys
from onebit.native import library
sanitized = library.ctypes.CDLL(sys.argv[1])
loads = library.ctypes.CDLL
library.ctypes.CDLL = lambda path, *args, **how: loads(path, *args, **how) if how else sanitized
from pathlib import Path
import numpy as np
from onebit.language.native_decoder import NativeDecoder
from onebit.language.net import read_net
from support.executors import assert_agrees, reference
from support.gguf_models import tokens_of, write_model
from support.hostile_files import changed_nets
from support.kernel_nets import kernel_nets, scaled_net
from support.packed_nets import inputs_of
from onebit.native import instruction_sets

known, planned = library.compiled_sets(sanitized), 0
isas = {name: known[name] for name in known if name in instruction_sets() or name in sys.argv[2:]}
if "amx" in isas:  # byte by byte in batches of any size
    isas["amx"] = isas["amx"]._replace(byte_tiles=1)
for net in [*kernel_nets(), scaled_net(128, 5, 70), scaled_net(30, 3, 9)]:
    images = inputs_of(net, 5)
    expected = reference(net, images)
    planned += sum(assert_agrees(net, images, expected, isa) for isa in isas.values())
    assert_agrees(net, images, expected, isas[list(isas)[-1]], parts=3)
unplanned = 0
for net in changed_nets(30, seed=1):
    images = inputs_of(net, 4)
    expected = reference(net, images)
    unplanned += sum(not assert_agrees(net, images, expected, isa) for isa in isas.values())
assert unplanned <= 2 * len(isas), unplanned
for kv, options in (("float16", {}), ("int8", {"kind": "llama", "ends": "Q8_0", "tied": False, "weights": "F16"})):
    path = write_model(Path(sys.argv[1]).with_name("x.gguf"), (128, 384, 1, 6, 2, 64, 33), **options)
    tokens = tokens_of(read_net(path)[0], 70)
    for isa in isas.values():
        decoder = NativeDecoder(read_net(path)[0], isa, threads=2, context=70, kv=kv, exact=False)
        assert np.isfinite(decoder.run(tokens, 0, all_rows=True)).all()
print(planned, *isas)
"""


@pytest.mark.nightly
def test_no_access_out_of_bounds_and_nothing_undefined(tmp_path: Path) -> None:
    assert COMPILER is not None
    runtime = subprocess.run([COMPILER, "-print-file-name=libasan.so"], text=True, capture_output=True, check=True)
    # without the library gcc prints the bare file name, and clang links its own into programs
    if not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer to load")
    library = tmp_path / "sanitized.so"
    command = [COMPILER, "-g", "-O1", "-fPIC", *SANITIZE]
    objects, emulated = compiled(command, platform.machine(), tmp_path), []
    # AVX-VNNI has the memory accesses of AVX2, and a signal for each product is slow
    if platform.system() == "Linux" and "avx512" in instruction_sets() and (tmp_path / "amx.o").exists():
        emulated = ["amx"]
        objects += [f"-I{SOURCES}", str(Path(__file__).parents[1] / "support" / "emulated_instructions.c")]
    subprocess.run([*command, "-shared", *objects, "-o", str(library)], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself never frees some memory
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in Path(__file__).parents[:3]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", NETS, str(library), *emulated],
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    planned, *isas = done.stdout.split()
    assert set(isas) == {*instruction_sets(), *emulated}
    assert int(planned) == (len(kernel_nets()) + 2) * len(isas)
