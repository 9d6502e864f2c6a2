"""Whole packed nets, native on each instruction set, against the same nets in plain torch and float32.

The float nets have the ±1 weights in ordinary layers, so they do not take signs of weights while they are timed. They
run as they are ("torch"), with each BatchNorm folded into the layer before it ("folded"), and folded and frozen, with
weights prepacked for oneDNN ("frozen"), in both memory formats. All take turns in one process, and every ratio is that
of one round, so that other load on the machine affects all of them alike.

An integer net also takes turns with the exact net that it was made from, and with the same net quantized by
onnxruntime: 8-bit weights and activations, calibrated on the same images ("int8").

A call is that of `onebit.run`, with its checks; beside it the plan alone, on the best instruction set.

Before anything is timed, the native logits are compared bit for bit with those of the reference executor, and all
labels of the batch with those of plain torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

import onebit
from benchmarks.quantized import quantized_session
from benchmarks.rivals import onnxruntime_version
from benchmarks.shared import (
    add_process_options,
    add_rounds,
    add_seconds,
    describe_machine,
    native_sets,
    need_positive,
    set_up_process,
)
from benchmarks.twins import (
    FLOOR,
    NETS,
    build,
    calibration_images,
    float_nets,
    float_twin,
    make_images,
    packed_form,
)

run_planned, threads_for = onebit.runtime.running.run_planned, onebit.runtime.running.threads_for
timing = onebit.runtime.timing
native = onebit.native

INT8 = "onnxruntime, 8 bits"
EXACT = "exact net"
ALONE = "plan alone"


def check(
    name: str, packed: onebit.packed.PackedNet, images: np.ndarray, timed: Sequence[timing.Timed], *, rounded: bool
) -> list[int]:
    """Compare native logits with the reference, and count labels that differ from those of plain torch, `timed[0]`.

    Args:
        rounded: activations are rounded to few bits, which changes some labels of a net with random weights.

    Raises:
        OnebitError: native logits that differ from the reference executor's in any bit; or labels that differ in more
            than one image and 5 % of the batch (20 % if `rounded`), which rounding does not explain.
    """
    reference = timing.Reference(packed, images)
    floor = timed[0].call().argmax(axis=1)
    mismatches = []
    for one in timed:
        logits = one.call()
        if one.isa is not None:
            reference.check(f"{name}, {one.variant}", logits)
        wrong = int(np.count_nonzero(logits.argmax(axis=1) != floor))
        if wrong > max(1, len(images) // (5 if rounded else 20)):
            raise onebit.errors.OnebitError(
                f"{name}, {one.variant}: {wrong} of {len(images)} labels are not those of plain torch"
            )
        mismatches.append(wrong)
    return mismatches


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--nets", type=lambda text: text.split(","), help=f"which of {','.join(NETS)} (all)")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", help="batch sizes (1; 256 or 64)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on channels and hidden units (1)")
    add_rounds(parser, 11)
    add_seconds(parser, 0.02)
    add_process_options(parser)


def measure(
    *,
    nets: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
    width: float = 1.0,
    rounds: int = 11,
    seconds: float = 0.02,
    threads: int = 1,
    default_malloc: bool = False,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check all nets, then time their variants in turn.

    Args:
        nets: names in NETS; all for None.
        batches: batch sizes, in place of those of NETS.
        on_round: called with (rounds done, rounds), for each net and batch.

    Returns:
        machine, settings, and rows of net, batch, variant, instruction set (None for torch), µs per call (median and
        fastest), speed-up over plain torch and over the best float net (median over rounds, and of the fastest rounds),
        whether it is that best one, number of labels that differ from plain torch's, bytes packed and in float32. Rows
        of integer nets also have the speed-up over onnxruntime in 8 bits, None for others and without onnxruntime.

    Raises:
        UsageError: numbers that are not positive, an unknown net, or no native library.
        OnebitError: see `check`.
    """
    chosen = {name: onebit.common.tables.resolve(NETS, name, kind="net") for name in (NETS if nets is None else nets)}
    need_positive(seconds, batches=min(batches or [1]), rounds=rounds, threads=threads)
    native_sets()
    where = set_up_process(threads, default_malloc=default_malloc)
    rows = []
    for name, net in chosen.items():
        model = build(net, width=width)
        rows += time_net(
            name,
            model,
            batches or net.batches,
            activations=net.activations,
            rounds=rounds,
            seconds=seconds,
            threads=threads,
            on_round=on_round,
        )
    return {
        "benchmark": "nets",
        "machine": where,
        "settings": {"rounds": rounds, "seconds": seconds, "width": width},
        "rows": rows,
    }


def time_net(
    name: str,
    model: nn.Module,
    batches: Sequence[int],
    *,
    activations: int | None = None,
    rounds: int,
    seconds: float,
    threads: int = 1,
    on_round: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """The rows of `measure` for a model in eval mode; torch uses the threads that it is set to.

    Raises:
        OnebitError: see `check`.
    """
    packed, twin = packed_form(model, activations), float_twin(model)
    sizes = {
        "packed_bytes": len(onebit.packed.dumps(packed)),
        "float_bytes": sum(4 * t.numel() for t in twin.state_dict().values() if t.is_floating_point()),
    }
    isas = native.instruction_sets()
    plans = {isa: native.make_plan(packed, found) for isa, found in isas.items()}
    others: dict[str, Any] = {}
    if activations is not None:
        exact = onebit.pack(model)
        others[EXACT] = partial(run_planned, exact, native.make_plan(exact, list(isas.values())[-1]), threads=threads)
        if onnxruntime_version() is not None:
            others[INT8] = quantized_session(exact, calibration_images(model), threads=threads)
    rows = []
    for batch in batches:
        images = make_images(model, batch)
        timed = [timing.Timed(variant, None, call) for variant, call in float_nets(twin, images)]
        for isa, plan in plans.items():
            timed.append(timing.Timed(isa, isa, partial(run_planned, packed, plan, images, threads=threads)))
        best = list(plans.values())[-1]
        if threads_for(best, batch, threads) == 1:
            timed.append(timing.Timed(ALONE, None, partial(_alone, best, images)))
        timed += [timing.Timed(name, None, partial(call, images)) for name, call in others.items()]
        mismatches = check(f"{name}, batch {batch}", packed, images, timed, rounded=activations is not None)
        timing.take_turns(timed, rounds=rounds, seconds=seconds, on_round=on_round)
        rows += [{"net": name, "batch": batch, **row, **sizes} for row in _rows(timed, mismatches)]
    return rows


def _alone(plan: native.NativePlan, images: np.ndarray) -> np.ndarray:
    return plan.run(images)[0]


def _rows(timed: Sequence[timing.Timed], mismatches: Sequence[int]) -> list[dict[str, Any]]:
    floor = timed[0]
    floats = (one for one in timed if one.isa is None and one.variant not in (INT8, EXACT, ALONE))
    best = min(floats, key=lambda one: one.median)
    int8 = next((one for one in timed if one.variant == INT8), None)
    return [
        {
            "variant": one.variant,
            "instruction_set": one.isa,
            "us": 1e6 * one.median,
            "fastest_us": 1e6 * min(one.seconds),
            **timing.speedups(one, floor, "torch"),
            **timing.speedups(one, best, "best"),
            "int8_speedup": timing.speedups(one, int8, "int8")["int8_speedup"] if int8 else None,
            "best": one is best,
            "label_mismatches": wrong,
        }
        for one, wrong in zip(timed, mismatches, strict=True)
    ]


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    where, how = result["machine"], result["settings"]
    head = ("variant", "µs", "fastest", "× torch", "fastest", "× best", "fastest", "× int8", "labels")
    lines = [
        f"logits of a batch in µs, median and fastest of {how['rounds']} rounds; width {how['width']:g}",
        describe_machine(where),
        "× torch, × best, × int8: speed-up over plain torch, over the float32 net marked *, and over onnxruntime in "
        "8 bits; labels: number that differ",
    ]
    for row in result["rows"]:
        if row["variant"] == FLOOR:
            sizes = f"{row['packed_bytes']:,} bytes packed, {row['float_bytes']:,} in float32"
            lines += ["", f"{row['net']}, batch {row['batch']}; {sizes}", _line(*head)]
        ratios = (f"{row[f'{to}_{which}']:.2f}" for to in ("torch", "best") for which in ("speedup", "fastest_speedup"))
        int8 = f"{row['int8_speedup']:.2f}" if row["int8_speedup"] else ""
        name = f"{row['variant']}{' *' if row['best'] else ''}"
        times = (f"{row[key]:,.{0 if row[key] > 1000 else 1}f}" for key in ("us", "fastest_us"))
        lines.append(_line(name, *times, *ratios, int8, f"{row['label_mismatches']}"))
    return "\n".join(lines)


def _line(name: str, *cells: str) -> str:
    widths = (12, 12, 9, 9, 9, 9, 9, 8)
    return f"{name:<26}" + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
