"""Bytes of running packed nets: the weights of a plan and its arena. Counted, not timed: the same each time."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import onebit
from benchmarks.shared import native_sets
from benchmarks.twins import NETS, Net, build, packed_form
from onebit import native
from onebit.packed import OneBitWeights, PackedNet

COUNTED = {**NETS, "resnet20-signs": Net("resnet20", "ste_sign", "ste_sign", (1,))}


def packed_bytes(net: PackedNet) -> float:
    """Bytes of the one-bit weights in the file."""
    return sum(node.binary_weights for node in net.nodes if isinstance(node, OneBitWeights)) / 8


def weight_bytes(plan: native.NativePlan) -> int:
    """Bytes of the one-bit weights in a plan, in the order of its kernels."""
    arrays = {array.ctypes.data: array.nbytes for array in plan.kept if isinstance(array, np.ndarray)}
    return sum(arrays[call.weights] for call in plan.kept[0] if call.weights)


def arena_bytes(plan: native.NativePlan) -> tuple[int, int]:
    """Bytes for the values of a batch, and of the tables, sums and buffers of kernels."""
    return 4 * (plan.plan.arena_units - plan.plan.scratch_units), 4 * plan.plan.scratch_units


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--nets", nargs="+", metavar="NET", help=f"only these: {', '.join(COUNTED)}")
    parser.add_argument("--isa", nargs="+", metavar="NAME", help="only these instruction sets (all of this machine)")


def measure(
    *,
    nets: Sequence[str] | None = None,
    isa: Sequence[str] | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Make the plan of each net for each instruction set.

    Args:
        nets: names in COUNTED. isa: names in `native.instruction_sets()`. None for all.
        on_round: called with (plans made, plans).

    Returns:
        rows of net, isa, bytes of the packed and of the plan's weights, of the arena for a batch, and the batch.

    Raises:
        UnknownNameError: no such net or instruction set. UsageError: no native library.
    """
    known = native_sets()
    resolve = onebit.common.tables.resolve
    chosen = {name: resolve(COUNTED, name, kind="net") for name in (COUNTED if nets is None else nets)}
    isas = {name: resolve(known, name, kind="instruction set of this machine") for name in isa or known}
    rows: list[dict[str, Any]] = []
    for name, net in chosen.items():
        packed = packed_form(build(net), net.activations)
        for set_name, instructions in isas.items():
            plan = native.make_plan(packed, instructions)
            values, scratch = arena_bytes(plan)
            rows.append(
                {
                    "net": name,
                    "isa": set_name,
                    "packed_bytes": packed_bytes(packed),
                    "weight_bytes": weight_bytes(plan),
                    "batch": plan.plan.batch,
                    "value_bytes": values,
                    "scratch_bytes": scratch,
                }
            )
            if on_round is not None:
                on_round(len(rows), len(chosen) * len(isas))
    return {"benchmark": "packed-memory", "rows": rows}


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    heads = ("packed bits", "weights", "values", "images", "an image", "kernels")
    lines = ["bytes of one-bit weights, of the values of a batch of images, and of tables and sums of kernels", ""]
    lines.append(f"{'net':<18}{'':<12}" + "".join(f"{head:>13}" for head in heads))
    for row in result["rows"]:
        numbers = [row["packed_bytes"], row["weight_bytes"], row["value_bytes"], row["batch"]]
        numbers += [row["value_bytes"] / row["batch"], row["scratch_bytes"]]
        lines.append(f"{row['net']:<18}{row['isa']:<12}" + "".join(f"{number:>13,.0f}" for number in numbers))
    return "\n".join(lines)
