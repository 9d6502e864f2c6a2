"""C programs of drawn nets and special cases have no undefined behavior; a 32-bit ARM gives the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from onebit.export.c.plan import Planner
from onebit.packed import OPS, PackedNet, nodes as op
from support.c_programs import SMALL, Case, assert_reference_bits, extremes, needs, outputs_of, with_inputs
from support.drawn_nets import batches_of, nets
from support.executors import reference
from support.extreme_nets import extreme_inputs
from support.packed_nets import Builder, inputs_of

pytestmark = pytest.mark.nightly  # compiles and emulates for minutes

SANITIZE = ("-O0", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")


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
    """Real parameters that overflow float32, so that infinities and NaN reach every kind of kernel."""
    b = Builder((2, 5, 5), coding="standardise")
    huge = np.full(2, 3e38, np.float32)
    b.add(op.Affine, scale=huge, shift=-huge)
    b.add(op.Affine, scale=huge, shift=huge)
    b.add(op.Conv, **b.signs(3, 18, scale=True, centre=True), kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=1)
    b.add(op.MaxPool, kernel=(2, 2))
    b.add(op.AveragePool, kernel=(2, 2), padding=(1, 0, 0, 0))
    b.add(op.Relu)
    b.add(op.Flatten)
    b.add(op.RealDense, weight=b.real(4, b.values[b.last].shape[0]))
    return b.net()


def levels_of_a_part(part: str) -> Case:
    """All signs of the part are -1, and one outside is +1: the grid of both levels would be coarser."""
    b = Builder((8, 4, 5), coding="float32")
    b.add(op.Sign)
    b.add(op.Slice, stop=(8, 1, 1) if part == "pixel" else (8, 2, 5))
    if part == "in place":
        b.add(op.Sign)
    elif part == "reshaped":
        b.add(op.Reshape, shape=(8, 1, 10))
    b.levels(0.1, 1000.7)
    b.add(op.Conv, **b.signs(8, 8), kernel=(1, 1))
    net = b.net()
    assert Planner(net).levels
    inputs = np.full((1, 8, 4, 5), -1, np.float32)
    inputs[0, :, 3, 4] = 1
    return net, inputs


def rounded_sums(before: str) -> Case:
    """Sums of weights, or of inputs, and a rounded sum in one C function."""
    b = Builder((8, 4, 5))
    signs = b.threshold(8, most=200)
    if before == "levels":
        b.levels(-0.3, 1.7)
    b.add(op.Conv, **b.signs(8, 72, centre=before == "center"), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(op.Quantize, least=-100, most=100)
    b.requantize(b.last, signs, least=-20, most=20)
    net = b.net()
    assert len(Planner(net).list) == 2
    return net, inputs_of(net, 3)


def roots() -> Case:
    """Square roots of large, small and subnormal numbers and 0, and their reciprocals."""
    b = Builder((40,), coding="float32")
    b.add(op.Relu)
    root = b.add(op.Sqrt)
    b.affine(40)
    b.add(op.Reciprocal)
    net = b.net({"root": root, "reciprocal": b.last})
    inputs = np.float32(10.0) ** np.linspace(-44, 38, 6 * 40, dtype=np.float32).reshape(6, 40)
    inputs[:, 0] = 0
    return net, inputs


def test_drawn_nets_are_exact_without_undefined_behavior(tmp_path: Path) -> None:
    needs("cc")
    cases = [
        *drawn(10),
        *extremes(),
        *drawn(6, integers=True),
        *map(levels_of_a_part, ("rows", "in place", "reshaped", "pixel")),
        *map(rounded_sums, ("levels", "center")),
        *with_inputs([overflowing(), *SMALL], 2),
        roots(),
    ]
    found = {type(node) for net, _ in cases for node in net.nodes}
    assert found == set(OPS.values()) - {op.Normalize, op.Softmax, op.Product}
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["cc", *SANITIZE]))


def test_a_32_bit_arm_gives_the_bits_of_the_reference(tmp_path: Path) -> None:
    needs("arm-linux-gnueabihf-gcc", "qemu-arm")
    cases = [*with_inputs(SMALL, 3), *extremes()[:3]]
    command = ["arm-linux-gnueabihf-gcc", "-O2", "-static"]
    assert_reference_bits(cases, outputs_of(cases, tmp_path, command, ["qemu-arm"]))


def test_many_drawn_nets_are_exact(tmp_path: Path) -> None:
    needs("cc")
    cases = [*drawn(400), *drawn(400, integers=True)]
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["cc", "-O1"]))
