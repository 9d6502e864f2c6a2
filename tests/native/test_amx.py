"""The kernels of AMX and AVX-VNNI: the machine code of the library, with each new instruction done by a signal handler.

See emulated_instructions.c. A processor that has them runs them itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.errors import UnknownNameError
from onebit.native import InstructionSet, instruction_set, instruction_sets, library, make_plan
from onebit.native.arena import THREAD
from onebit.packed import Conv, Dense, PackedNet, Relu
from onebit.packed.bits import pack_signs
from onebit.packed.nodes import Product
from onebit.runtime import run
from support.compiling import SOURCES
from support.executors import assert_agrees, reference
from support.kernel_nets import convolutions_of_bytes, dense_nets_of_bytes, kernel_nets
from support.packed_nets import Builder, inputs_of

COMPILER = shutil.which(os.environ.get("CC", "cc"))
EMULATOR = Path(__file__).parents[1] / "support" / "emulated_instructions.c"
pytestmark = pytest.mark.skipif(
    COMPILER is None or platform.system() != "Linux" or "avx512" not in instruction_sets(),
    reason="AMX is tested on Linux, on a processor with AVX-512 and with a C compiler",
)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The signal handler, from now on installed."""
    assert COMPILER is not None
    made = tmp_path_factory.mktemp("amx") / "emulated.so"
    subprocess.run([COMPILER, "-O2", "-fPIC", "-shared", f"-I{SOURCES}", str(EMULATOR), "-o", str(made)], check=True)
    return ctypes.CDLL(str(made))


def compiled_set(name: str) -> InstructionSet:
    kernels = library._load()
    assert kernels is not None
    known = library.compiled_sets(kernels)
    if name not in known:
        pytest.skip(f"the library was compiled without its {name} kernels")
    return known[name]


@pytest.fixture(scope="module")
def avxvnni(emulated: ctypes.CDLL) -> InstructionSet:
    return compiled_set("avxvnni")


@pytest.fixture(scope="module")
def amx(emulated: ctypes.CDLL) -> Iterator[InstructionSet]:
    yield compiled_set("amx")
    assert emulated.amx_released()


def test_every_net_has_the_bits_of_the_reference(amx: InstructionSet, emulated: ctypes.CDLL) -> None:
    """Byte by byte in every dense layer of integers."""
    amx, used = amx._replace(byte_tiles=1), 0
    for net in kernel_nets():
        images = inputs_of(net, 5)
        expected, before = reference(net, images), emulated.emulated_products()
        if assert_agrees(net, images, expected, amx):
            used += emulated.emulated_products() > before
            assert_agrees(net, images, expected, amx, parts=3)
    assert used > 5 or "amx" in instruction_sets()


def test_every_net_has_the_bits_of_the_reference_with_avxvnni(avxvnni: InstructionSet, emulated: ctypes.CDLL) -> None:
    used = 0
    for net in kernel_nets():
        plan = make_plan(net, avxvnni)
        if "dot" not in plan.kernels or plan.work > 100_000:  # each product takes a signal
            continue
        images, before = inputs_of(net, 4), emulated.emulated_products()
        assert assert_agrees(net, images, reference(net, images), avxvnni)
        used += emulated.emulated_products() > before
    assert used > 5 or "avxvnni" in instruction_sets()


@pytest.mark.parametrize("sign", [1, -1])
def test_products_of_avxvnni_are_not_cut_to_16_bits(avxvnni: InstructionSet, emulated: ctypes.CDLL, sign: int) -> None:
    """The largest sums of a four of bytes, and of many of them."""
    b = Builder((1083,), coding="values")
    b.add(Dense, signs=pack_signs(np.full((20, 1083), sign, np.int8)), in_features=1083)
    images = np.repeat(np.array([[0], [255], [128]] * 7, np.uint8), 1083, axis=1)  # more rows than use lookups
    before = emulated.emulated_products()
    found, _ = make_plan(b.net(), avxvnni).run(images)
    assert emulated.emulated_products() > before or "avxvnni" in instruction_sets()
    np.testing.assert_array_equal(found, run(b.net(), images, executor="reference"))


def assert_same(net: PackedNet, count: int, amx: InstructionSet, emulated: ctypes.CDLL, *, tiles: bool) -> None:
    """The bits of the reference. tiles: whether tiles multiply."""
    images, before = inputs_of(net, count), emulated.emulated_products()
    images >>= np.arange(count, dtype=np.uint8).reshape(-1, *[1] * (images.ndim - 1)) % 7  # each has its own grid
    found, _ = make_plan(net, amx).run(images)
    np.testing.assert_array_equal(found, run(net, images, executor="reference"))
    assert (emulated.emulated_products() > before) == tiles or "amx" in instruction_sets()
    assert emulated.amx_released()


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(["real", "positive", "sums", "most"]),
    inputs=st.one_of(st.integers(1, 300), st.sampled_from([512, 513, 1100])),
    outputs=st.integers(1, 150),
    count=st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 50, 65]),
    seed=st.integers(0, 99),
    scaled=st.booleans(),
)
def test_dense_layers_byte_by_byte(
    amx: InstructionSet,
    emulated: ctypes.CDLL,
    form: str,
    inputs: int,
    outputs: int,
    count: int,
    seed: int,
    scaled: bool,
) -> None:
    """Integers of one to three bytes, and values on their grid, which have four, or three without a sign."""
    b = Builder((inputs,), seed=seed)
    if form in ("real", "positive"):
        b.affine(inputs)
        if form == "positive":
            b.add(Relu)
    elif form == "sums":
        b.dense(inputs)
    else:
        b.add(Dense, signs=pack_signs(np.ones((inputs, inputs), np.int8)), in_features=inputs)
    b.add(Dense, **b.signs(outputs, inputs, scale=scaled, centre=scaled))
    assert_same(b.net(), count, amx._replace(byte_tiles=1), emulated, tiles=True)


@pytest.mark.parametrize(
    ("value", "planes"),
    [
        *((value, planes) for most, planes in ((2**8, 1), (2**16, 2)) for value in (most - 1, -most // 2)),
        *((value, planes) for least, planes in ((2**8, 2), (2**16, 3)) for value in (least, -least // 2 - 1)),
        (2**24 - 1, 3),
        (-(2**23), 3),
        (2**24, 4),
        (-(2**23) - 1, 4),
    ],
)
def test_integers_have_as_many_bytes_as_they_need(
    amx: InstructionSet, emulated: ctypes.CDLL, value: int, planes: int
) -> None:
    """A product of 16 rows for the bytes of 14 images, after those of the layer that makes the integer."""
    inputs, count = 1030 * 64, 14
    b = Builder((inputs,), coding="values")
    b.add(Dense, signs=pack_signs(np.full((1, inputs), 1 if value > 0 else -1, np.int8)), in_features=inputs)
    b.dense(1)
    image = np.zeros(inputs, np.uint8)
    image[: abs(value) // 255], image[-1] = 255, abs(value) % 255
    before = emulated.emulated_products()
    found, _ = make_plan(b.net(), amx._replace(byte_tiles=1)).run(np.repeat(image[None], count, axis=0))
    assert (np.abs(found) == abs(value)).all()
    np.testing.assert_array_equal(found[:1], run(b.net(), image[None], executor="reference"))
    assert emulated.emulated_products() - before - inputs // 64 == planes or "amx" in instruction_sets()


@settings(max_examples=25, deadline=None)
@given(
    terms=st.integers(20, 200),
    pixels=st.integers(1, 40),
    kind=st.sampled_from(["signed", "positive", "largest", "least"]),
    seed=st.integers(0, 99),
)
def test_products_of_two_values(amx: InstructionSet, terms: int, pixels: int, kind: str, seed: int) -> None:
    """With the largest magnitude of a grid, of either sign."""
    b = Builder((terms, 2, pixels), coding="float32")
    b.add(Product, "input", "input")
    x = np.random.default_rng(seed).standard_normal((2, terms, 2, pixels), np.float32)
    if kind == "positive":
        x = abs(x)
    elif kind != "signed":
        x[:, ::2] = np.nextafter(np.float32(8), 0) * (1 if kind == "largest" else -1)
        x[:, 1::2] = abs(x[:, 1::2])
    expected = run(b.net(), x, executor="reference")
    for parts in (1, 3):
        np.testing.assert_array_equal(make_plan(b.net(), amx).run(x, parts=parts)[0], expected)


@settings(max_examples=25, deadline=None)
@given(net=dense_nets_of_bytes(), count=st.sampled_from([1, 3, 4, 15, 16, 17, 31, 32, 33, 50, 257]))
def test_dense_layers_of_bytes(amx: InstructionSet, emulated: ctypes.CDLL, net: PackedNet, count: int) -> None:
    assert_same(net, count, amx, emulated, tiles=count > 3)


@settings(max_examples=25, deadline=None)
@given(net=convolutions_of_bytes(), count=st.sampled_from([1, 3, 17]))
def test_convolutions_of_bytes(amx: InstructionSet, emulated: ctypes.CDLL, net: PackedNet, count: int) -> None:
    """Rows of pixels that are read where they are, and rows that are packed."""
    images, before = inputs_of(net, count), emulated.emulated_products()
    plan, layer = make_plan(net, amx), cast(Conv, net.nodes[-1])
    expected = run(net, images, executor="reference")
    for parts in (1, 3):
        np.testing.assert_array_equal(plan.run(images, parts=parts)[0], expected)
    columns = expected.shape[3]
    emulates = "dot" in plan.kernels and "amx" not in instruction_sets()
    if emulates and layer.terms >= 128 and columns >= 16 and count * columns < 2**9 and layer.stride == (1, 1):
        assert emulated.emulated_products() > before


@pytest.mark.parametrize(
    ("shape", "outputs", "fields"),
    [
        ((64, 1, 2), 33, {"kernel": (1, 2)}),  # a row of pixels is a dense layer
        ((264, 1, 1), 1920, {"kernel": (1, 1), "groups": 2}),  # groups of a pixel are none
    ],
)
def test_nothing_is_written_behind_the_arena(
    amx: InstructionSet, shape: tuple[int, ...], outputs: int, fields: dict[str, Any]
) -> None:
    b = Builder(shape, coding="values")
    terms = shape[0] // fields.get("groups", 1) * fields["kernel"][1]
    b.add(Conv, **b.signs(outputs, terms), **fields)
    images, plan = inputs_of(b.net(), 128), make_plan(b.net(), amx)
    assert plan.kernels[0] == "dot"
    memory = np.full(plan.plan.arena_units + 2**17, 7, np.uint32)
    arena = memory[-memory.ctypes.data % 64 // 4 :]
    THREAD.memory = arena, arena.ctypes.data
    np.testing.assert_array_equal(plan.run(images)[0], run(b.net(), images, executor="reference"))
    assert (arena[plan.plan.arena_units :] == 7).all()


@pytest.mark.parametrize("name", ["amx", "avxvnni"])
def test_an_instruction_set_that_the_processor_lacks_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in instruction_sets():
        pytest.skip(f"this processor has {name}")
    monkeypatch.setenv("ONEBIT_ISA", name)
    with pytest.raises(UnknownNameError, match=name):
        instruction_set()


def test_an_old_compiler_leaves_kernels_out(tmp_path: Path) -> None:
    cmake, project = shutil.which("cmake"), SOURCES.parents[3]
    if cmake is None or not (project / "CMakeLists.txt").is_file():
        pytest.skip("no cmake, or not a clone of the repository")
    assert COMPILER is not None
    old = tmp_path / "old-cc"
    refuse = '*" -mamx-"*|*" -mavxvnni "*) echo unknown option >&2; exit 1;;'
    old.write_text(f'#!/bin/sh\ncase " $* " in {refuse} esac\nexec {COMPILER} "$@"\n')
    old.chmod(0o755)
    command = [cmake, "-S", str(project), "-B", str(tmp_path), "-G", "Unix Makefiles", f"-DCMAKE_C_COMPILER={old}"]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    flags = (tmp_path / "CMakeFiles" / "kernels.dir" / "flags.make").read_text()
    for name in ("amx", "avxvnni"):
        assert f"onebit is installed without its {name} kernels" in done.stdout
        assert f"-DOB_{name.upper()}" not in flags
    assert "-DOB_AVX512" in flags
