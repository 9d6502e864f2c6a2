"""Memory of a running net: its weights in panels, the values in use at the same time, and nothing else."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest

from benchmarks.nets import NETS, Net, build, packed_form
from onebit.native import NativePlan, instruction_sets, make_plan
from onebit.packed import OneBitWeights, PackedNet, infer
from support.covering import covering
from support.packed_nets import Builder, inputs_of

MEASURED = {**NETS, "resnet20-signs": Net("resnet20", inputs="ste_sign")}

ISAS = list(instruction_sets())
pytestmark = pytest.mark.skipif(not ISAS, reason="the native library is not installed")
VALUES = {"mlp": 2, "resnet20": 3.25, "vgg_small": 1.26}
"""Size of the arena relative to the largest value of a net; a residual block also keeps its shortcut and a grid, and
the portable kernels make int32 of the bytes of an image."""


def packed_bytes(net: PackedNet) -> float:
    """Bytes of the one-bit weights in the file."""
    return sum(node.binary_weights for node in net.nodes if isinstance(node, OneBitWeights)) / 8


def weight_bytes(plan: NativePlan) -> int:
    """Bytes of the one-bit weights in a plan, in the order of its kernels."""
    arrays = {array.ctypes.data: array.nbytes for array in plan.kept if isinstance(array, np.ndarray)}
    return sum(arrays[call.weights] for call in plan.kept[0] if call.weights)


def arena_bytes(plan: NativePlan) -> tuple[int, int]:
    """Bytes for the values of a batch, and of the tables, sums and buffers of kernels."""
    return 4 * (plan.plan.arena_units - plan.plan.scratch_units), 4 * plan.plan.scratch_units


@pytest.mark.parametrize(("name", "isa"), covering(product(MEASURED, ISAS), heavy={"vgg-signs"}))
def test_a_plan_takes_memory_for_its_weights_and_for_values_in_use(name: str, isa: str) -> None:
    net = packed_form(build(MEASURED[name]), MEASURED[name].activations)
    plan = make_plan(net, instruction_sets()[isa])
    assert weight_bytes(plan) <= 1.25 * packed_bytes(net)
    values, scratch = arena_bytes(plan)
    largest = max(4 * int(np.prod(value.shape)) for value in infer(net).values())
    assert values <= plan.plan.batch * VALUES[MEASURED[name].model] * (largest + 8) + 1024
    # AMX: the bytes of 64 rows of 2048 real values, and sums
    assert scratch <= (700_000 if isa == "amx" and name == "mlp-weights" else 200_000)
    images = inputs_of(net, 3)
    tracemalloc.start()
    plan.run(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 4 * plan.plan.arena_units + 10_000  # the arena and the output


def test_rows_that_are_never_split_into_bytes_have_no_memory_for_it() -> None:
    """A row too long for as many images at a time as tiles are for."""
    b = Builder((2**17,), coding="float32")
    b.dense(1)
    without = instruction_sets()[ISAS[0]]._replace(byte_tiles=0)
    units = [make_plan(b.net(), isa).plan.scratch_units for isa in (without, without._replace(byte_tiles=16))]
    assert units[0] == units[1]
