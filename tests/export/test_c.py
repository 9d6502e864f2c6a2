"""`onebit export --to c`: the bits of the reference executor on every machine, and little flash, memory and time."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

import onebit
from benchmarks.cortex_m4 import OnBoard, on_cortex_m4
from onebit.errors import OnebitError, UsageError
from onebit.export import CannotRun, c, export_net
from onebit.export.c import size
from onebit.export.c.plan import Planner
from onebit.packed import (
    OPS,
    Affine,
    AveragePool,
    Conv,
    Flatten,
    MaxPool,
    PackedNet,
    RealDense,
    Relu,
    Reshape,
    Sign,
    Slice,
)
from onebit.runtime import run
from support.agreeing import reference
from support.byte_nets import EXTREMES, extreme_inputs, residual_bytes
from support.c_programs import Case, exported, outputs_of
from support.drawn_nets import batches_of, nets
from support.kernel_nets import kernel_nets
from support.packed_nets import IMAGE_NETS, OTHER_NETS, Builder, inputs_of


def on_board(net: PackedNet, folder: Path, *, optimize: str, inputs: np.ndarray | None = None) -> OnBoard:
    """The bits of the reference on an emulated Cortex-M4, and what they take."""
    needs("arm-none-eabi-gcc", "qemu-system-arm")
    inputs = inputs_of(net, 1) if inputs is None else inputs
    found = on_cortex_m4(exported(net, folder / "net"), inputs, folder, optimize)
    assert_same([(net, inputs)], [found.outputs])
    return found


SANITIZE = ("-O1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")


def needs(*tools: str) -> None:
    missing = [tool for tool in tools if which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def assert_same(cases: list[Case], found: list[np.ndarray]) -> None:
    """Every bit is that of the reference executor, which must not have refused."""
    for (net, inputs), numbers in zip(cases, found, strict=True):
        expected = reference(net, inputs)
        assert expected is not None
        sizes = np.cumsum([np.prod(shape) for shape in (onebit.packed.infer(net)[name].shape for name in net.outputs)])
        parts = np.split(numbers, sizes[:-1].astype(int), axis=1)
        flat = np.concatenate([part.reshape(-1) for part in parts])
        np.testing.assert_array_equal(bits(flat), bits(expected.reshape(-1)), err_msg=repr(net))


def bits(numbers: np.ndarray) -> np.ndarray:
    """Equal for two NaNs of any bits, unequal for 0 and -0."""
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers).view(np.int32)


def drawn(count: int, *, integers: bool = False) -> list[Case]:
    """Nets and inputs that hypothesis draws, the same ones in every run."""
    cases: list[Case] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def draw(data: Any) -> None:
        net = data.draw(nets(integers=integers))
        cases.append((net, extreme_inputs(net) if integers else data.draw(batches_of(net))))

    draw()
    return [case for case in cases if reference(*case) is not None]


def overflowing() -> PackedNet:
    """Real parameters that overflow float32, so that infinities and NaN meet every kind of kernel."""
    b = Builder((2, 5, 5), coding="standardise")
    huge = np.full(2, 3e38, np.float32)
    b.add(onebit.packed.Affine, scale=huge, shift=-huge)
    b.add(onebit.packed.Affine, scale=huge, shift=huge)
    b.add(Conv, **b.signs(3, 18, scale=True, centre=True), kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=1)
    b.add(MaxPool, kernel=(2, 2))
    b.add(AveragePool, kernel=(2, 2), padding=(1, 0, 0, 0))
    b.add(Relu)
    b.add(Flatten)
    b.add(RealDense, weight=b.real(4, b.values[b.last].shape[0]))
    return b.net()


def pooled_signs(direction: int) -> PackedNet:
    """Signs and thresholds after pools of integers and reals."""
    b = Builder((3, 8, 8))
    b.add(Conv, **b.signs(9, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    b.threshold(9, most=900)
    b.nodes[-1] = replace(b.nodes[-1], direction=np.full(9, direction, np.int8))
    b.add(Conv, **b.signs(8, 81, scale=True), kernel=(3, 3))
    b.affine(8)
    b.add(MaxPool, kernel=(2, 2))
    b.add(Sign, shift=b.real(8))
    b.add(Flatten)
    b.dense(6)
    return b.net()


def extremes() -> list[Case]:
    return [(net, extreme_inputs(net)) for net in (make() for make in EXTREMES.values())]


SMALL = [*(make() for make in IMAGE_NETS.values()), *(make() for make in OTHER_NETS.values())]
ALL = [*kernel_nets(), pooled_signs(1), pooled_signs(-1)]
CASES = [*ALL[1:28:3], *ALL[28:]]


# daily, clang compiles half of these nets, without -ffp-contract=off, below
@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=pytest.mark.nightly)])
def test_every_kernel_gives_the_bits_of_the_reference(compiler: str, tmp_path: Path) -> None:
    needs(compiler)
    cases = [*((net, inputs_of(net, 3)) for net in CASES), *extremes()]
    assert_same(cases, outputs_of(cases, tmp_path, [compiler, "-O2"]))


def compiled(net: PackedNet, folder: Path, *command: str) -> str:
    """What a compiler says of net.c, "" if it compiles."""
    place = exported(net, folder / "net")
    done = subprocess.run(
        [*command, "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fsyntax-only", str(place / "net.c")],
        capture_output=True,
        text=True,
    )
    return done.stderr


@pytest.mark.parametrize(
    ("compiler", "flag"),
    [
        *(("gcc", "-Ofast"), ("gcc", "-ffast-math"), ("gcc", "-funsafe-math-optimizations")),
        *(("gcc", "-ffinite-math-only"), ("clang", "-Ofast"), ("clang", "-ffinite-math-only")),
        ("gcc", "-freciprocal-math"),
        ("gcc", "-D_M_FP_FAST"),  # what MSVC defines with /fp:fast
    ],
)
def test_flags_that_change_sums_of_floats_are_refused(compiler: str, flag: str, tmp_path: Path) -> None:
    needs(compiler)
    said = compiled(IMAGE_NETS["real"](0), tmp_path / "real", compiler, flag)
    assert '#error "-ffast-math, -Ofast and /fp:fast give other bits: compile without them"' in said
    assert compiled(integers_only(), tmp_path / "integers", compiler, flag) == ""


@pytest.mark.parametrize(
    "command",
    [
        ("gcc", "-march=sapphirerapids"),
        ("aarch64-linux-gnu-gcc", "-mcpu=cortex-a76"),
        ("arm-none-eabi-gcc", "-mcpu=cortex-m55", "-mfloat-abi=hard"),
    ],
)
def test_processors_with_half_floats_compile(command: tuple[str, ...], tmp_path: Path) -> None:
    """There FLT_EVAL_METHOD is 16 in the dialects of GNU."""
    needs(command[0])
    if subprocess.run([*command, "-E", "-"], input=b"", capture_output=True).returncode:
        pytest.skip(f"this {command[0]} does not know {command[1]}")
    assert compiled(IMAGE_NETS["real"](0), tmp_path, *command, "-std=gnu99") == ""


def test_floats_that_are_not_rounded_are_refused(tmp_path: Path) -> None:
    needs("gcc")
    if platform.machine() != "x86_64":
        pytest.skip("the processor has no x87")
    said = compiled(IMAGE_NETS["real"](0), tmp_path, "gcc", "-mfpmath=387", "-ffreestanding")
    assert "float operations that are not rounded to float give other bits" in said


GNU = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""Of the dialects of GNU, in which gcc rounds products and sums together unless net.c forbids it."""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_products_and_sums_are_rounded_one_by_one_without_a_flag(compiler: str, tmp_path: Path) -> None:
    needs(compiler)
    if platform.machine() != "x86_64" or "fma" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("the processor has no FMA")
    cases = [(net, inputs_of(net, 20)) for net in [*SMALL, *CASES[::2]]]
    assert_same(cases, outputs_of(cases, tmp_path, [compiler, "-O2", "-mfma"], strict=GNU))


def test_parts_of_fast_math_that_clang_does_not_name_change_nothing(tmp_path: Path) -> None:
    needs("clang")
    if platform.machine() != "x86_64" or "fma" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("the processor has no FMA")
    flags = ["-funsafe-math-optimizations", "-freciprocal-math"]
    cases = [(net, inputs_of(net, 20)) for net in [*SMALL, *CASES[::3]]]
    assert_same(cases, outputs_of(cases, tmp_path, ["clang", "-O2", "-mfma", *flags], strict=GNU))


def test_a_pragma_of_gcc_does_not_turn_on_what_it_refuses_as_a_flag(tmp_path: Path) -> None:
    """gcc drops -fassociative-math, which needs other flags, and defines no macro; a pragma turned it on again."""
    needs("gcc")
    cases = [(net, inputs_of(net, 20)) for net in [*SMALL, *CASES[::3]]]
    assert_same(cases, outputs_of(cases, tmp_path, ["gcc", "-O2", "-fassociative-math"], strict=("-std=c99", "-w")))


@pytest.mark.parametrize("optimize", ["-Os", "-O3"])
def test_a_cortex_m4_rounds_products_and_sums_one_by_one_without_a_flag(optimize: str, tmp_path: Path) -> None:
    """The code is that with -ffp-contract=off, also in size."""
    needs("arm-none-eabi-gcc", "arm-none-eabi-objdump")
    b = Builder((2, 6, 6), coding="standardise")
    b.add(Conv, **b.signs(8, 18, scale=True, centre=True), kernel=(3, 3))
    place, made = exported(b.net(), tmp_path / "net"), []
    for flags in (GNU, (*GNU, "-ffp-contract=off")):
        command = ["arm-none-eabi-gcc", *size.CORTEX_M4, optimize, *flags, "-c", "net.c", "-o", "net.o"]
        subprocess.run(command, check=True, cwd=place)
        dump = ["arm-none-eabi-objdump", "-d", "net.o"]
        made.append(subprocess.run(dump, check=True, cwd=place, capture_output=True, text=True).stdout)
    assert not re.search(r"\bvfn?m[as]", made[0])
    assert made[0] == made[1]


@pytest.mark.parametrize("optimize", ["-Os", "-O3"])
def test_a_cortex_m4_rounds_affine_maps_as_double_does(optimize: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("way", ["rows", "in place", "reshaped", "pixel"])
def test_levels_of_a_part_of_the_signs_are_on_the_grid_of_that_part(way: str, tmp_path: Path) -> None:
    """All signs of the part are -1, and one beside it is +1: the grid of both levels is coarser."""
    needs("gcc")
    b = Builder((8, 4, 5), coding="float32")
    b.add(Sign)
    b.add(Slice, stop=(8, 1, 1) if way == "pixel" else (8, 2, 5))
    if way == "in place":
        b.add(Sign)
    elif way == "reshaped":
        b.add(Reshape, shape=(8, 1, 10))
    b.levels(0.1, 1000.7)
    b.add(Conv, **b.signs(8, 8), kernel=(1, 1))
    net = b.net()
    assert Planner(net).levels
    inputs = np.full((1, 8, 4, 5), -1, np.float32)
    inputs[0, :, 3, 4] = 1
    assert_same([(net, inputs)], outputs_of([(net, inputs)], tmp_path, ["gcc", *SANITIZE]))


@pytest.mark.parametrize("before", ["levels", "center"])
def test_sums_of_weights_and_of_inputs_meet_a_rounded_sum_in_one_function(before: str, tmp_path: Path) -> None:
    needs("gcc")
    b = Builder((8, 4, 5))
    signs = b.threshold(8, most=200)
    if before == "levels":
        b.levels(-0.3, 1.7)
    b.add(Conv, **b.signs(8, 72, centre=before == "center"), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(onebit.packed.Quantize, least=-100, most=100)
    b.requantize(b.last, signs, least=-20, most=20)
    case = b.net(), inputs_of(b.net(), 3)
    assert len(Planner(case[0]).list) == 2
    assert_same([case], outputs_of([case], tmp_path, ["gcc", *SANITIZE]))


@pytest.mark.parametrize("compiler", ["arm-none-eabi-gcc", "clang --target=arm-none-eabi"])
@pytest.mark.parametrize("optimize", ["-O0", "-Os", "-O2"])
def test_a_cortex_m4_multiplies_and_adds_without_a_library(compiler: str, optimize: str, tmp_path: Path) -> None:
    command = compiler.split()
    needs(command[0], "arm-none-eabi-nm", "arm-none-eabi-objdump")
    b = Builder((4,), coding="float32")
    b.affine(4)
    place = exported(b.net(), tmp_path / "net")
    flags = (*size.CORTEX_M4, optimize, *GNU, "-ffreestanding")
    subprocess.run([*command, *flags, "-c", "net.c", "-o", "net.o"], check=True, cwd=place)
    missing = subprocess.check_output(["arm-none-eabi-nm", "-u", "net.o"], cwd=place, text=True)
    assert "fma" not in missing
    assert "vfma.f32" in subprocess.check_output(["arm-none-eabi-objdump", "-d", "net.o"], cwd=place, text=True)


def test_vectors_of_constants_are_not_exchanged(tmp_path: Path) -> None:
    """gcc 12 does that at -O3 with AVX to two affine operations in turn."""
    needs("gcc")
    if platform.machine() != "x86_64" or "avx" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor has no AVX")
    b = Builder((5,), coding="float32", seed=1)
    b.affine(5)
    b.affine(5)
    case = b.net(), inputs_of(b.net(), 20)
    found = outputs_of([case], tmp_path, ["gcc", "-O3", "-mavx"])
    assert_same([case], found)


@pytest.mark.nightly
def test_every_width_gives_the_bits_of_the_reference(tmp_path: Path) -> None:
    needs("cc")
    cases = [(net, inputs_of(net, 3)) for net in ALL]
    assert_same(cases, outputs_of(cases, tmp_path, ["cc", "-O3"]))


def test_drawn_nets_are_exact_and_nothing_in_them_is_undefined(tmp_path: Path) -> None:
    needs("cc")
    cases = [
        *drawn(14),
        *extremes(),
        *drawn(12, integers=True),
        (overflowing(), inputs_of(overflowing(), 2)),
        *((net, inputs_of(net, 2)) for net in SMALL),
    ]
    assert {type(node) for net, _ in cases for node in net.nodes} == set(OPS.values())
    assert_same(cases, outputs_of(cases, tmp_path, ["cc", *SANITIZE]))


@pytest.mark.nightly
def test_many_drawn_nets_are_exact(tmp_path: Path) -> None:
    needs("cc")
    cases = [*drawn(400), *drawn(400, integers=True)]
    assert_same(cases, outputs_of(cases, tmp_path, ["cc", "-O1"]))


def test_a_32_bit_arm_gives_the_same_bits(tmp_path: Path) -> None:
    needs("arm-linux-gnueabihf-gcc", "qemu-arm")
    cases = [*((net, inputs_of(net, 3)) for net in SMALL), *extremes()]
    command = ["arm-linux-gnueabihf-gcc", "-O2", "-static"]
    assert_same(cases, outputs_of(cases, tmp_path, command, ["qemu-arm"]))


@pytest.mark.parametrize("k", [*range(len(SMALL)), *EXTREMES])
def test_a_cortex_m4_gives_the_same_bits(k: int | str, tmp_path: Path) -> None:
    net = SMALL[k] if isinstance(k, int) else EXTREMES[k]()
    inputs = inputs_of(net, 2) if isinstance(k, int) else extreme_inputs(net)
    found = on_board(net, tmp_path, optimize="-Os", inputs=inputs)
    _, _, most = size.linked(tmp_path / "net")
    assert 0 < found.stack <= most + 64  # what main keeps meanwhile


MLP = (784, 512, 256, 10)


@pytest.mark.parametrize(("form", "most", "ram"), [("weight-only", 1_100_000, 7000), ("sign", 850_000, 5000)])
def test_an_mlp_is_small_and_fast_on_a_cortex_m4(
    form: str, most: int, ram: int, tmp_path: Path, packed_mlp: Any
) -> None:
    found = on_board(packed_mlp(MLP, form=form, shape=(1, 28, 28)), tmp_path, optimize="-Os")
    assert 400_000 < found.instructions <= most
    flash, static, stack = size.linked(tmp_path / "net")
    assert 66_880 < flash <= 76_000
    assert static + stack <= ram


def residual_net(edge: int, *widths: int) -> PackedNet:
    """A residual block for each width, with real activations, as in ResNet-20."""
    b = Builder((3, edge, edge))
    window = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    b.add(Conv, **b.signs(widths[0], 27), **window)
    b.affine(widths[0])
    x, before = b.add(Relu), widths[0]
    for width in widths:
        down = 1 + (width > before)
        b.add(Conv, x, **b.signs(width, 9 * before), stride=(down, down), **window)
        b.affine(width)
        b.add(Relu)
        b.add(Conv, **b.signs(width, 9 * width), **window)
        y = b.affine(width)
        if down > 1:
            b.add(Slice, x, stop=b.values[x].shape, step=(1, 2, 2))
            x = b.add(onebit.packed.Pad, channels=(before // 2, before // 2))
        b.add(onebit.packed.Add, y, x)
        x, before = b.add(Relu), width
    b.add(onebit.packed.AdaptiveAveragePool, size=(1, 1))
    b.add(Flatten)
    b.dense(10)
    b.affine(10)
    return b.net()


def test_residual_blocks_take_two_maps_of_memory_and_few_instructions(tmp_path: Path) -> None:
    net = residual_net(12, 16, 16)
    found = on_board(net, tmp_path, optimize="-O2")
    assert found.instructions <= 7 * sum(row.macs for row in onebit.packed.costs(net))
    _, static, _ = size.linked(tmp_path / "net")
    assert static <= 2 * 4 * 16 * 12 * 12 + 4096


@pytest.mark.nightly
def test_a_resnet_20_takes_at_most_160_million_instructions(tmp_path: Path) -> None:
    net = residual_net(32, *np.repeat([16, 32, 64], 3).tolist())
    found = on_board(net, tmp_path, optimize="-O2")
    assert 40_000_000 < found.instructions <= 160_000_000
    _, static, stack = size.linked(tmp_path / "net")
    assert static + stack <= 2 * 65_536 + 4096
    constants = sum(array.nbytes for array in Planner(net).arrays.values())
    assert constants <= 42_000


def test_bytes_take_a_quarter_of_the_memory_and_few_instructions(tmp_path: Path) -> None:
    net = residual_bytes(12, (16,), 2)
    found = on_board(net, tmp_path, optimize="-O2")
    assert found.instructions <= 2 * sum(row.macs for row in onebit.packed.costs(net))
    _, static, _ = size.linked(tmp_path / "net")
    assert static <= 2 * 16 * 12 * 12 + 5120


def test_an_integer_resnet_20_takes_two_maps_of_bytes_and_42_kb_of_weights(tmp_path: Path) -> None:
    needs("arm-none-eabi-gcc")
    net = residual_bytes()
    _, static, stack = size.linked(exported(net, tmp_path / "net"))
    assert static + stack <= 2 * 16_384 + 6144
    assert Planner(net).constant_bytes <= 42_000


@pytest.mark.nightly
def test_an_integer_resnet_20_takes_at_most_50_million_instructions(tmp_path: Path) -> None:
    found = on_board(residual_bytes(), tmp_path, optimize="-O2")
    assert 20_000_000 < found.instructions <= 50_000_000


@pytest.mark.nightly
def test_two_levels_are_multiplied_as_signs_on_a_cortex_m4(tmp_path: Path) -> None:
    """As real values, the convolutions alone take more instructions than this net."""
    found = on_board(onebit.load("resnet20-cifar10-signs"), tmp_path, optimize="-O2")
    assert 40_000_000 < found.instructions <= 80_000_000
    _, static, stack = size.linked(tmp_path / "net")
    assert static + stack <= 104_000


def test_rounding_nan_gives_the_least_integer(tmp_path: Path) -> None:
    """The reference refuses NaN; a program has no way to."""
    needs("cc", "make")
    b = Builder((3,), coding="float32")
    b.add(onebit.packed.Quantize, least=-7, most=9)
    net = b.net()
    place = exported(net, tmp_path / "net")
    inputs = np.float32([[np.nan, -0.5, np.inf], [2.5, -np.inf, -np.nan]])
    (found,) = c.run(net, place, inputs).values()
    np.testing.assert_array_equal(found, [[-7, 0, 9], [2, -7, -7]])
    assert "NaN that is rounded to an integer becomes the least" in (place / "net.h").read_text()


def test_nan_has_the_sign_minus_one_also_behind_a_pool(tmp_path: Path) -> None:
    needs("cc", "make")
    b = Builder((1, 2, 4), coding="float32")
    b.add(MaxPool, kernel=(2, 2), stride=(2, 2))
    b.add(Sign)
    b.add(Flatten)
    b.add(RealDense, weight=np.eye(2, dtype=np.float32))
    net = b.net()
    inputs = np.float32([[[[np.nan, 1, 2, 2], [2, 3, -1, -1]]], [[[-1, 5, -2, -2], [1, 1, -1, -1]]]])
    (found,) = c.run(net, exported(net, tmp_path / "net"), inputs).values()
    np.testing.assert_array_equal(found, [[-1, 1], [1, -1]])


def test_an_integer_net_has_no_float_before_its_logits(tmp_path: Path) -> None:
    b = Builder((3, 9, 9), coding="values")
    b.requantize(least=-128, most=127)
    b.add(Conv, **b.signs(8, 27), kernel=(3, 3))
    b.requantize()
    place = exported(b.net(), tmp_path / "net")
    text = re.sub(r"/\*.*?\*/", "", (place / "net.c").read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(float|double)\b", text)


def integers_only() -> PackedNet:
    """Signs in, sums out."""
    b = Builder((1, 6, 6))
    b.add(Conv, **b.signs(8, 9), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(MaxPool, kernel=(2, 2), stride=(2, 2))
    b.threshold(8)
    b.add(Flatten)
    b.dense(5)
    return b.net()


def test_a_net_of_integers_has_no_float(tmp_path: Path) -> None:
    net = integers_only()
    place = exported(net, tmp_path / "net")
    for name in ("net.c", "net.h", "net_weights.h"):
        text = re.sub(r"/\*.*?\*/", "", (place / name).read_text(), flags=re.DOTALL)
        assert not re.search(r"\b(float|double)\b", text), name
    assert "int32_t *output" in (place / "net.h").read_text()
    exact = export_net(net, "c", tmp_path / "again").comparison
    assert exact is not None
    assert exact.bit_exact


def test_the_functions_are_those_of_the_native_library(tmp_path: Path, packed_mlp: Any) -> None:
    """What net.c computes with numbers and one-bit weights is the text that the native library is compiled from."""
    folder = Path(onebit.__file__).parent / "native"
    shared = [piece.strip("\n") for name in ("numbers.h", "tables.h") for piece in _pieces(folder / "plain" / name)]
    used = "".join(path.read_text() for path in (folder / "csrc").glob("*.[ch]"))
    for name in ("numbers.h", "tables.h"):
        assert f'#include "../plain/{name}"' in used
    found = set()
    for k, net in enumerate([*SMALL, packed_mlp((16, 8, 8, 4), form="sign")]):
        text = exported(net, tmp_path / str(k)).joinpath("net.c").read_text()
        defined = re.findall(r"^static (?:inline )?\w+ \*?(\w+)\(", text, flags=re.MULTILINE)
        assert len(defined) == len(set(defined))
        for piece in shared:
            name = re.search(r"^static (?:inline )?\w+ (\w+)\(", piece, flags=re.MULTILINE)
            assert name is not None
            if name[1] in defined:
                assert piece in text
                found.add(name[1])
                uses = used.count(f"{name[1]}(") + "".join(shared).count(f"{name[1]}(")
                # integers are rounded in vectors of doubles there
                assert uses > 1 or name[1] in ("requantized", "quantized"), f"{name[1]} is used nowhere"
    assert {"lut_tables", "rounded", "affine_of", "ones", "grid_exponent", "larger_of", "clamp_of"} <= found


def _pieces(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n\n")[1:]


def test_names_cannot_leave_their_strings_and_comments(tmp_path: Path, packed_mlp: Any) -> None:
    needs("cc")
    hostile = ('"};int x[', "*/ int main", "/* ??/", "\\", "%s%n", "é√", "#include", "'", "??/??/", "a" * 150)
    net = packed_mlp((12, 70, 65, 10))
    spec = replace(net.input, meaning="*/ # ??/ \\")
    net = replace(net, name="*/ int y; /* \\ ??/ é", classes=hostile, input=spec)
    place = exported(net, tmp_path / "net")
    (place / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\n'
        "int main(void) { for (int k = 0; k < NET_CLASS_COUNT; k++) puts(net_classes[k]); return 0; }\n"
    )
    subprocess.run(["make", "-s", "-C", str(place)], check=True)
    said = subprocess.run([str(place / "net")], capture_output=True, check=True).stdout
    assert said.decode("utf-8").splitlines() == list(hostile)
    for file in place.glob("*.[ch]"):
        file.read_bytes().decode("ascii")


def test_nodes_of_any_name_get_names_in_c(tmp_path: Path) -> None:
    """Names that differ in C only by what it cannot hold, or that are its keywords."""
    b = Builder((4, 4, 4))
    names = {}
    for old, new in zip(("n0", "n1", "n2", "n3"), ("int", "a.b", "a-b", "0"), strict=True):
        names[old] = new
        b.add(Conv, **b.signs(4, 4, scale=True), kernel=(1, 1))
    made = [
        replace(node, inputs=tuple(names.get(n, n) for n in node.inputs), output=names[node.output]) for node in b.nodes
    ]
    net = PackedNet(input=b.input, nodes=tuple(made), output="0")
    assert export_net(net, "c", tmp_path / "net").comparison is not None


def test_the_program_says_when_an_input_is_cut_off(tmp_path: Path, packed_mlp: Any) -> None:
    needs("cc", "make")
    net = packed_mlp()
    place = exported(net, tmp_path / "net")
    subprocess.run(["make", "-s", "-C", str(place)], check=True)
    done = subprocess.run([str(place / "net")], input=bytes(12 + 5), capture_output=True)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == b"5 bytes are left, an input has 12\n"
    empty = subprocess.run([str(place / "net")], input=b"", capture_output=True)
    assert (empty.returncode, empty.stdout) == (0, b"")


def test_the_program_says_when_outputs_are_not_written(tmp_path: Path, packed_mlp: Any) -> None:
    needs("cc", "make")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    place = exported(packed_mlp(), tmp_path / "net")
    subprocess.run(["make", "-s", "-C", str(place)], check=True)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([str(place / "net")], input=bytes(12), stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"cannot write the outputs\n")


@pytest.mark.parametrize("compiler", ["gcc", "clang", "arm-none-eabi-gcc"])
def test_compilers_add_only_calls_that_the_readme_names(compiler: str, tmp_path: Path) -> None:
    needs(compiler, "nm")
    place = exported(IMAGE_NETS["real"](0), tmp_path / "net")
    readme = (place / "README.md").read_text()
    options = ["-O3", "-std=c99", "-ffp-contract=off", "-c", str(place / "net.c"), "-o", str(tmp_path / "net.o")]
    subprocess.run([compiler, *options], check=True)
    said = subprocess.run(["nm", "-u", str(tmp_path / "net.o")], check=True, capture_output=True, text=True).stdout
    called = {name for name in said.split() if name != "U" and not name.startswith("__aeabi")}
    assert all(f"`{name}`" in readme for name in called)


def test_two_nets_in_one_program_need_names_of_their_own(tmp_path: Path, packed_mlp: Any) -> None:
    needs("cc", "ar")
    nets = {name: packed_mlp(seed=seed) for seed, name in enumerate(("first", "second"))}
    inputs = inputs_of(nets["first"], 1)
    for name, net in nets.items():
        exported(net, tmp_path / name)
        flags = ["-std=c99", "-ffp-contract=off", f"-Dnet_run={name}_run", f"-Dnet_classes={name}_classes"]
        (tmp_path / f"{name}.c").write_text(
            f'#include "net.h"\nint {name}_size = NET_OUTPUT_SIZE;\n'
            f"void {name}(const net_input_t *x, net_output_t *y) {{ net_run(x, y); }}\n"
        )
        for file, made in ((f"{name}/net.c", f"{name}_net.o"), (f"{name}.c", f"{name}.o")):
            command = ["cc", *flags, f"-I{tmp_path / name}", "-c", str(tmp_path / file), "-o", str(tmp_path / made)]
            subprocess.run(command, check=True)
        objects = [str(tmp_path / f"{name}{end}.o") for end in ("_net", "")]
        subprocess.run(["ar", "rcs", str(tmp_path / f"lib{name}.a"), *objects], check=True)
    numbers = ", ".join(map(str, inputs.reshape(-1)))
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <stdint.h>\n"
        "void first(const uint8_t *x, float *y);\nvoid second(const uint8_t *x, float *y);\n"
        f"static uint8_t x[] = {{{numbers}}};\nstatic float y[10];\n"
        'static void show(void) { for (int k = 0; k < 10; k++) printf("%.9g ", y[k]); }\n'
        "int main(void) { first(x, y); show(); second(x, y); show(); return 0; }\n"
    )
    libraries = [str(tmp_path / f"lib{name}.a") for name in nets]
    program = str(tmp_path / "both")
    subprocess.run(["cc", str(tmp_path / "main.c"), *libraries, "-o", program], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    found = np.array(said, np.float64).astype(np.float32).reshape(2, 1, 10)
    np.testing.assert_array_equal(found, [onebit.run(net, inputs) for net in nets.values()])


def test_the_headers_of_two_nets_do_not_compile_together(tmp_path: Path, packed_mlp: Any) -> None:
    needs("cc")
    places = [exported(packed_mlp(seed=seed), tmp_path / str(seed)) for seed in range(2)]

    def included(*folders: Path) -> str:
        lines = "".join(f'#include "{folder / "net.h"}"\n' for folder in folders)
        command = ["cc", "-std=c99", "-Wall", "-Werror", "-fsyntax-only", "-x", "c", "-"]
        return subprocess.run(command, input=lines, capture_output=True, text=True).stderr

    assert included(places[0], places[0]) == ""
    assert "net.h of another net is included already" in included(*places)


def test_an_arduino_library_compiles_as_c_plus_plus(tmp_path: Path, packed_mlp: Any) -> None:
    needs("g++")
    net = packed_mlp()
    made = export_net(net, "c", tmp_path / "lib", layout="arduino")
    assert made.comparison is None or made.comparison.bit_exact
    names = {str(path.relative_to(tmp_path / "lib")) for path in made.files}
    assert names == {
        *("README.md", "library.properties", "library.json", "examples/run/run.ino"),
        *("src/net.h", "src/net.c", "src/net_weights.h"),
    }
    (tmp_path / "Arduino.h").write_text(
        "struct { void begin(long); void print(...); void println(); } Serial;\n"
        "unsigned long micros(); void delay(long);\n"
    )
    include = ["-include", str(tmp_path / "Arduino.h"), f"-I{tmp_path / 'lib' / 'src'}"]
    sketch = str(tmp_path / "lib" / "examples" / "run" / "run.ino")
    subprocess.run(["g++", "-Wall", "-Werror", "-fsyntax-only", *include, "-x", "c++", sketch], check=True)


def test_a_machine_without_a_compiler_writes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed_mlp: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    net = packed_mlp()
    made = export_net(net, "c", tmp_path / "net", report=True)
    assert made.comparison is None
    assert made.not_compared == "make is not installed"
    assert "arm-none-eabi-gcc is not installed: not measured" in made.report
    with pytest.raises(CannotRun):
        c.run(net, tmp_path / "net", inputs_of(net, 1))


def test_the_report_measures_flash_and_memory(tmp_path: Path, packed_mlp: Any) -> None:
    needs("arm-none-eabi-gcc", "cc", "make")
    net = packed_mlp()
    lines = export_net(net, "c", tmp_path / "net", report=True).report.splitlines()
    flash, static, stack = size.linked(tmp_path / "net")
    assert lines[0] == f"{12 * 70 + 70 * 65 + 65 * 10:,} multiply-accumulates"
    assert lines[1].startswith(f"flash: {flash:,} bytes on a Cortex-M4 at -Os with the compiler's own routines, ")
    assert lines[2] == f"RAM: {static + stack:,} bytes, {static:,} of them static, at most {stack:,} of stack"
    assert lines[3] == "  fc0: dense 12 -> 70; affine0: affine; relu0: relu: 840 MACs"
    declared = re.search(r"([\d,]+) bytes of memory", (tmp_path / "net" / "net.h").read_text())
    assert declared is not None
    assert declared[1] == f"{static:,}"


@pytest.mark.parametrize("tool", ["arm-none-eabi-gcc", "arm-none-eabi-size"])
def test_a_compiler_that_cannot_link_measures_nothing(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed_mlp: Any
) -> None:
    needs("arm-none-eabi-gcc")
    broken = tmp_path / "bin" / tool
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho cannot read spec file nano.specs >&2\necho more >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    report = export_net(packed_mlp(), "c", tmp_path / "net", report=True).report
    assert re.search(
        r"flash: [\d,]+ bytes of constants, and code \(not measured: cannot read spec file nano\.specs\)\n", report
    )
    assert "more" not in report


def test_a_program_that_fails_is_reported(tmp_path: Path, packed_mlp: Any) -> None:
    needs("cc", "make")
    net = packed_mlp()
    place = exported(net, tmp_path / "net")
    (place / "main.c").write_text("#error broken\n")
    with pytest.raises(OnebitError, match=r"^the exported program fails: make says .*please report this$"):
        c.run(net, place, inputs_of(net, 1))


def test_what_the_target_cannot_hold_is_refused(tmp_path: Path) -> None:
    b = Builder((1, 40, 1000))
    b.add(Flatten)
    b.add(RealDense, weight=b.real(2, 40_000))
    with pytest.raises(UsageError, match=r"^--to c takes rows of at most 32,768 real weights; 'n1' has 40,000$"):
        export_net(b.net(), "c", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
    b = Builder((1, 4096, 4))
    for _ in range(2):
        b.add(onebit.packed.Repeat, times=(1, 1, 64))
        b.add(AveragePool, kernel=(2048, 1), sums=1)
    b.add(AveragePool, kernel=(1, 64))
    with pytest.raises(UsageError, match=r"^--to c takes averages of integers whose sums fit 32 bits"):
        export_net(b.net(), "c", tmp_path / "net")


def test_a_compiler_that_compiles_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bin" / "cc"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no stdio.h >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    made = export_net(IMAGE_NETS["sign"](0), "c", tmp_path / "net")
    assert made.comparison is None
    assert made.not_compared == "cc compiles not even an empty program"


def test_a_shell_for_another_processor_compares_with_the_native_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("cc", "make")
    other = {"CC": "cc-of-another-processor", "CFLAGS": "-mcpu=other", "LDFLAGS": "-T other.ld", "MAKEFLAGS": "-e -k"}
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    made = export_net(IMAGE_NETS["sign"](0), "c", tmp_path / "net").comparison
    assert made is not None
    assert made.bit_exact


def test_without_room_to_build_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OnebitError):
        export_net(IMAGE_NETS["sign"](0), "c", tmp_path / "net")
    assert not (tmp_path / "net").exists()
