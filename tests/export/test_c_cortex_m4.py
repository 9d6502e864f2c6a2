"""C programs on a Cortex-M4: bits, and little flash, memory and time."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import onebit
from benchmarks.cortex_m4 import OnBoard, on_cortex_m4
from onebit.export.c import size
from onebit.export.c.plan import Planner
from onebit.packed import Affine, Conv, PackedNet, costs
from onebit.runtime import run
from support.c_programs import GNU, assert_reference_bits, exported, needs
from support.extreme_nets import EXTREMES, extreme_inputs
from support.packed_nets import NETS, Builder, inputs_of, integer_resnet, make_packed_mlp, real_resnet

pytestmark = pytest.mark.nightly  # the emulator takes its time
CASES = {**NETS, **EXTREMES}


def on_board(net: PackedNet, folder: Path, *, optimize: str, inputs: np.ndarray | None = None) -> OnBoard:
    """The cost of a net on an emulated Cortex-M4, after a comparison with the reference executor."""
    needs("arm-none-eabi-gcc", "qemu-system-arm")
    inputs = inputs_of(net, 1) if inputs is None else inputs
    found = on_cortex_m4(exported(net, folder / "net"), inputs, folder, optimize)
    assert_reference_bits([(net, inputs)], [found.outputs])
    return found


@pytest.mark.parametrize("name", CASES)
def test_outputs_have_the_bits_of_the_reference_and_the_stack_its_bound(name: str, tmp_path: Path) -> None:
    net = CASES[name]()
    inputs = extreme_inputs(net) if name in EXTREMES else inputs_of(net, 2)
    found = on_board(net, tmp_path, optimize="-Os", inputs=inputs)
    _, _, most = size.linked(tmp_path / "net")
    assert 0 < found.stack <= most + 64  # what `main` keeps meanwhile


@pytest.mark.parametrize("optimize", ["-O3", "-Os"])
def test_products_and_sums_are_not_contracted(optimize: str, tmp_path: Path) -> None:
    """The code is the same with -ffp-contract=off."""
    needs("arm-none-eabi-gcc", "arm-none-eabi-objdump")
    b = Builder((2, 6, 6), coding="standardise")
    b.add(Conv, **b.signs(8, 18, scale=True, centre=True), kernel=(3, 3))
    folder, made = exported(b.net(), tmp_path / "net"), []
    for flags in (GNU, (*GNU, "-ffp-contract=off")):
        command = ["arm-none-eabi-gcc", *size.CORTEX_M4, optimize, *flags, "-c", "net.c", "-o", "net.o"]
        subprocess.run(command, check=True, cwd=folder)
        made.append(subprocess.check_output(["arm-none-eabi-objdump", "-d", "net.o"], cwd=folder, text=True))
    assert not re.search(r"\bvfn?m[as]", made[0])
    assert made[0] == made[1]


@pytest.mark.parametrize("optimize", ["-Os", "-O3"])
def test_affine_maps_are_rounded_as_in_double(optimize: str, tmp_path: Path) -> None:
    """Also just below the middle of two floats, where double rounds to it, but no fused multiply-add."""
    power = np.repeat(np.arange(-70, 71, 5), 4)
    sign, odd = np.tile([1, -1, 1, -1], len(power) // 4), np.tile([1, 1, 3, 2**23 - 1], len(power) // 4)
    shift = np.ldexp(np.float32(2**23 + odd), power - 23) * np.float32(sign)  # from 1 to 2 times a power
    x = np.ldexp(np.float32(2**23 + 1), power // 2 - 36) * np.float32(sign)
    scale = np.ldexp(np.float32(2**24 - 2), power - power // 2 - 35)  # x · scale = (1 - 2^-46) · 2^(power - 24)
    count = len(power)
    rng = np.random.default_rng(0)
    x, scale, shift = (np.float32(np.append(part, rng.standard_normal(count))) for part in (x, scale, shift))
    x[count:] -= np.float32(shift[count:] / scale[count:]) * (np.arange(count) % 2)  # every other sum cancels
    b = Builder((2 * count,), coding="float32")
    b.add(Affine, scale=scale, shift=shift)
    net = b.net()
    middles = run(net, x[None])[0, :count]
    # the neighbors of `shift`, which a fused multiply-add gives
    np.testing.assert_array_equal(np.abs(middles.view(np.int32) - shift[:count].view(np.int32)), 1)
    special = np.float32([0, -0.0, 1e-40, -1e-38, 3e30, 1])
    inputs = np.stack([x, rng.choice(special, x.size), rng.standard_normal(x.size).astype(np.float32)])
    on_board(net, tmp_path, optimize=optimize, inputs=inputs)


@pytest.mark.parametrize(
    ("compiler", "optimize"),
    [
        *(("arm-none-eabi-gcc", level) for level in ("-O0", "-O2")),
        *(("clang --target=arm-none-eabi", level) for level in ("-O0", "-O2")),
    ],
)
def test_multiply_adds_call_no_library(compiler: str, optimize: str, tmp_path: Path) -> None:
    command = compiler.split()
    needs(command[0], "arm-none-eabi-nm", "arm-none-eabi-objdump")
    b = Builder((4,), coding="float32")
    b.affine(4)
    folder = exported(b.net(), tmp_path / "net")
    flags = (*size.CORTEX_M4, optimize, *GNU, "-ffreestanding")
    subprocess.run([*command, *flags, "-c", "net.c", "-o", "net.o"], check=True, cwd=folder)
    assert "fma" not in subprocess.check_output(["arm-none-eabi-nm", "-u", "net.o"], cwd=folder, text=True)
    assert "vfma.f32" in subprocess.check_output(["arm-none-eabi-objdump", "-d", "net.o"], cwd=folder, text=True)


@pytest.mark.parametrize("kind", ["real", "bytes"])
def test_residual_blocks_take_two_maps_of_memory_and_few_instructions(kind: str, tmp_path: Path) -> None:
    net = (real_resnet if kind == "real" else integer_resnet)((16,), blocks=2, size=12)
    found = on_board(net, tmp_path, optimize="-O2")
    assert found.instructions <= (7 if kind == "real" else 2) * sum(row.macs for row in costs(net))
    _, static, _ = size.linked(tmp_path / "net")
    assert static <= 2 * (4 if kind == "real" else 1) * 16 * 12 * 12 + 5120


DIGITS = partial(make_packed_mlp, (784, 512, 256, 10), shape=(1, 28, 28))
LIMITS = {
    "mlp": (DIGITS, "-Os", (400_000, 1_100_000), 7_000, 73_104, 2_896),
    "mlp of signs": (partial(DIGITS, form="sign"), "-Os", (400_000, 850_000), 5_000, 70_128, 2_896),
    "resnet-20": (
        partial(real_resnet, (16, 32, 64), blocks=3, size=32),
        *("-O2", (40_000_000, 160_000_000), 2 * 65_536 + 4096, 42_000, 10_000),  # two maps of reals
    ),
    "integer resnet-20": (
        partial(integer_resnet, (16, 32, 64), blocks=3, size=32),
        *("-O2", (20_000_000, 50_000_000), 2 * 16_384 + 6144, 42_000, 10_000),  # two maps of bytes
    ),
    "resnet-20 of signs": (  # as real values, the convolutions of two levels alone would take more instructions
        partial(onebit.load, "resnet20-cifar10-signs"),
        *("-O2", (40_000_000, 80_000_000), 104_000, 57_000, 12_000),
    ),
}
"""A net, the level of optimization, least and most instructions, and the most bytes of memory, constants and code."""


@pytest.mark.parametrize("name", LIMITS)
def test_a_net_is_small_and_fast(name: str, tmp_path: Path) -> None:
    make, optimize, (least, most), memory, constants, code = LIMITS[name]
    net = make()
    assert least < on_board(net, tmp_path, optimize=optimize).instructions <= most
    flash, static, stack = size.linked(tmp_path / "net")
    assert static + stack <= memory
    assert Planner(net).constant_bytes <= constants < flash <= constants + code
