"""Single products with one-bit weights, on each instruction set, against the same products in float32 and 8 bits.

A case is a layer with ±1 inputs ("xnor"), real inputs ("weights"), real inputs as after a ReLU ("relu"), a uint8 image
("first") or the bytes of an integer net ("integer"). The timed call is the one that whole nets run, on one thread. With
real inputs it includes rounding them to a grid; with ±1 inputs it does not include taking their signs, which the
previous layer does. Sums are written as float products write theirs.

"torch" is F.linear or F.conv2d with the ±1 weights in float32. The best of float32 is the fastest of that,
channels_last, weights prepacked for oneDNN, and onnxruntime. int8 is the fastest of onnxruntime's MatMulInteger, or
ConvInteger and QLinearConv, on quantized inputs. All take turns in one process, and a ratio is that of one round.

Before anything is timed, the logits of the whole plan are compared bit for bit with those of the reference executor,
and the result of each call with plain torch's.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import onebit
from benchmarks.layers import CASES, KINDS, Case, Layer
from benchmarks.sessions import onnxruntime_version
from benchmarks.shared import add_timing, set_up_process, speedups, words

abi, timing = onebit.native.abi, onebit.runtime.timing

RIVALS = ("torch", "best", "int8")
COLUMNS = {"product": "", "batch": "d", "instructions": "", "us": ",.1f", "fastest_us": ",.1f", "torch_us": ",.1f"}
COLUMNS |= {"torch_speedup": ".2f", "best_speedup": ".2f", "best": "", "int8_speedup": ".2f"}


def alone(plan: onebit.native.NativePlan, images: np.ndarray, calls: range) -> Callable[[], np.ndarray]:
    """A function that runs only some kernel calls of a plan, to time them.

    The calls before them run once, now, to leave their inputs in memory. None of `calls` may overwrite the input of an
    earlier one: the memory of a value is used again after the last call that reads it.

    Args:
        images: as for `NativePlan.run`. More images than the plan's batch are computed batch by batch, but every batch
            uses the values of the first images.

    Returns:
        The function. It returns the output of the last call, (images of a batch, units) int32 in NHWC order (the bits
        of float32 for real values): a view that the next call overwrites.
    """
    arena, memory = onebit.native.arena.aligned(plan.plan.arena_units)
    count, last = min(len(images), plan.plan.batch), plan.kept[0][calls[-1]]
    before, part = (abi.PlanStruct.from_buffer_copy(plan.plan) for _ in range(2))
    before.call_count, part.call_count = calls.start, len(calls)
    part.calls += calls.start * ctypes.sizeof(abi.CallStruct)
    before.output_count = part.output_count = 0  # no output is copied,
    part.input_count = 0  # and no image is coded, so their addresses do not matter
    plan.isa.run(ctypes.byref(before), images.ctypes.data, count, memory, memory, 0, 1, None)
    arguments = (ctypes.byref(part), memory, len(images), memory, memory, 0, 1, None)
    made = arena[last.out : last.out + count * last.out_size].view(np.int32).reshape(count, -1)

    def run_calls() -> np.ndarray:
        plan.isa.run(*arguments)
        return made

    return run_calls


def product_alone(plan: onebit.native.NativePlan, images: np.ndarray) -> Callable[[], np.ndarray]:
    """The call of a plan that multiplies by weights, with the rounding of its real inputs."""
    (product,) = (index for index, call in enumerate(plan.kept[0]) if call.weights)
    grid = product > 0 and plan.kernels[product - 1] == "grid"
    return alone(plan, images, range(product - grid, product + 1))


def _agree(who: str, found: np.ndarray, expected: np.ndarray, slack: float) -> None:
    wrong = int(np.count_nonzero(~(np.abs(found - expected) <= slack)))  # NaN is wrong, too
    if wrong:
        raise onebit.errors.OnebitError(f"{who}: {wrong:,} of {found.size:,} sums differ from plain torch")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--cases", type=words, default=list(CASES), help=f"some of {','.join(CASES)} (all)")
    parser.add_argument("--isa", type=words, help="instruction sets, as avx2,avx512 (all of this machine)")
    add_timing(parser, rounds=11, seconds=0.02)


def measure(*, cases: Sequence[str | Case], isa: Sequence[str] | None, threads: int, **turns: Any) -> dict[str, Any]:
    """Check all products, then time their variants in turn.

    Returns:
        rows of product, batch, instruction set, kernel, µs per call (median and fastest); the µs of plain torch, of the
        best of float32 with its name, and of int8 (None without onnxruntime); and the speed-up over each.

    Raises:
        OnebitError: a wrong sum: an integer that differs in any way, another number by more than rounding explains.
    """
    set_up_process(threads)
    known = onebit.native.instruction_sets()
    isas = {name: known[name] for name in isa or known}
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for name in cases:
            case = CASES[name] if isinstance(name, str) else name
            for batch in case.batches:
                rows += time_layer(Layer(case, batch), isas, **turns)
    return {"onnxruntime": onnxruntime_version(), "rows": rows}


def time_layer(
    layer: Layer, isas: Mapping[str, onebit.native.InstructionSet], *, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """The rows of `measure` for a layer and a batch."""
    case, batch = layer.case, len(layer.images)
    plans = {name: onebit.native.make_plan(layer.packed, isa) for name, isa in isas.items()}
    check = timing.against_reference(layer.packed, layer.images)
    native = []
    for isa, plan in plans.items():
        check(f"{case.name}, batch {batch}, {isa}", plan.run(layer.images)[0])
        native.append(timing.Timed(isa, product_alone(plan, layer.images)))
        for _ in range(2):  # a call must not overwrite its inputs
            sums = layer.native_sums(native[-1].call())
            _agree(f"{case.name}, batch {batch}, {isa}", sums, layer.sums[: len(sums)], layer.slack)
    floats: list[timing.Timed] = []
    int8: list[timing.Timed] = []
    for rival in layer.rivals():
        expected = layer.sums if not rival.int8 else rival.product.compute().numpy().astype(np.float64)
        _agree(f"{case.name}, batch {batch}, {rival.name}", rival.sums(rival.call()), expected, rival.slack)
        (int8 if rival.int8 else floats).append(timing.Timed(rival.name, rival.call))
    timing.take_turns([*native, *floats, *int8], rounds=rounds, seconds=seconds)
    rivals = (floats[0], _fastest(floats), _fastest(int8))
    rows = []
    for one in native:
        row: dict[str, Any] = {"kind": case.kind, "layer": case.text, "product": f"{KINDS[case.kind]}, {case.text}"}
        row |= {
            "batch": batch,
            "instructions": one.variant,
            "us": 1e6 * one.median,
            "fastest_us": 1e6 * min(one.seconds),
        }
        for name, rival_timed in zip(RIVALS, rivals, strict=True):
            if rival_timed:
                row |= {name: rival_timed.variant, f"{name}_us": 1e6 * rival_timed.median}
                row |= speedups(one, rival_timed, name)
        rows.append(row)
    return rows


def _fastest(timed: Sequence[timing.Timed]) -> timing.Timed | None:
    return min(timed, key=lambda one: one.median, default=None)
