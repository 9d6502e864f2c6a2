"""Whole packed nets, native on each instruction set, against the same nets in plain torch and float32.

The float nets have the ±1 weights in ordinary layers, so they do not take signs of weights while they are timed. They
run as they are ("torch"), with each BatchNorm folded into the layer before it ("folded"), and folded and frozen, with
weights prepacked for oneDNN ("frozen"), in both memory formats. All take turns in one process, and a ratio is that of
one round, so that other load on the machine affects all of them alike.

An integer net also takes turns with the same net quantized by onnxruntime: 8-bit weights and activations, calibrated on
the same images ("int8"). With --onnx, the files of `onebit export --to onnx` take turns as well.

A call is that of `onebit.run`, with its checks; beside it the plan alone, on the best instruction set. Before anything
is timed, the native logits are compared bit for bit with those of the reference executor, the outputs of both ONNX
files with each other, and the labels with those of plain torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

import onebit
from benchmarks.sessions import exported, onnxruntime_version, quantized
from benchmarks.shared import add_timing, set_up_process, speedups, words
from benchmarks.twins import NETS, build, calibration_images, float_nets, float_twin, make_images, packed_form

run_planned, timing, native = onebit.runtime.running.run_planned, onebit.runtime.timing, onebit.native

INT8, FLOAT_FILE, FILE, ALONE = "onnxruntime, 8 bits", "ONNX file of floats", "ONNX file", "plan alone"
TO = ("torch", "best", "int8", "file")
"""Compared with: plain torch, the best float net, onnxruntime in 8 bits, the ONNX file of floats."""
COLUMNS = {"net": "", "batch": "d", "variant": "", "us": ",.1f", "fastest_us": ",.1f"}
COLUMNS |= {**{f"{to}_speedup": ".2f" for to in TO}, "label_mismatches": "d"}


def check(
    name: str, packed: onebit.packed.PackedNet, images: np.ndarray, timed: Sequence[timing.Timed], *, rounded: bool
) -> list[int]:
    """Compare native logits with the reference, and count labels that differ from those of plain torch, `timed[0]`.

    Args:
        rounded: activations are rounded to few bits, which changes some labels of a net with random weights.

    Raises:
        OnebitError: native logits, or outputs of the two ONNX files, that differ in any bit; or labels that differ in
            more than one image and 5 % of the batch (20 % if `rounded`), which rounding does not explain.
    """
    check_logits = timing.against_reference(packed, images)
    made = {one.variant: one.call() for one in timed}
    if FILE in made and made[FILE].tobytes() != made[FLOAT_FILE].tobytes():
        raise onebit.errors.OnebitError(f"{name}: the two ONNX files give different outputs")
    floor = made[timed[0].variant].argmax(axis=1)
    mismatches = []
    for one in timed:
        logits = made[one.variant]
        if one.variant in native.instruction_sets():
            check_logits(f"{name}, {one.variant}", logits)
        wrong = int(np.count_nonzero(logits.argmax(axis=1) != floor))
        if wrong > max(1, len(images) // (5 if rounded else 20)):
            raise onebit.errors.OnebitError(f"{name}, {one.variant}: {wrong} of {len(images)} labels differ from torch")
        mismatches.append(wrong)
    return mismatches


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--nets", type=words, default=list(NETS), help=f"some of {','.join(NETS)} (all)")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", help="batch sizes (1; 256 or 64)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on channels and hidden units (1)")
    parser.add_argument("--onnx", action="store_true", help="also the files of `onebit export --to onnx`")
    add_timing(parser, rounds=11, seconds=0.02)


def measure(
    *, nets: Sequence[str], batches: Sequence[int] | None, width: float, onnx: bool, threads: int, **turns: Any
) -> dict[str, Any]:
    """Rows of net, batch, variant, µs per call (median and fastest), and speed-ups: medians over rounds."""
    set_up_process(threads)
    rows: list[dict[str, Any]] = []
    for name in nets:
        net = NETS[name]
        model = build(net, width=width)
        sizes, activations = batches or net.batches, net.activations
        rows += time_net(name, model, sizes, activations=activations, threads=threads, onnx=onnx, **turns)
    return {"onnxruntime": onnxruntime_version(), "rows": rows}


def time_net(
    name: str,
    model: nn.Module,
    batches: Sequence[int],
    *,
    activations: int | None = None,
    rounds: int,
    seconds: float,
    threads: int = 1,
    onnx: bool = False,
) -> list[dict[str, Any]]:
    """The rows of `measure` for a model in eval mode; torch uses the threads that it is set to."""
    packed, twin = packed_form(model, activations), float_twin(model)
    plans = {isa: native.make_plan(packed, found) for isa, found in native.instruction_sets().items()}
    others: dict[str, Callable[[Any], np.ndarray]] = {}
    if plans and threads == 1:
        best = list(plans.values())[-1]
        others[ALONE] = lambda images: best.run(images)[0]
    if activations is not None and onnxruntime_version() is not None:
        others[INT8] = quantized(onebit.pack(model), calibration_images(model), threads)
    if onnx:
        others |= {FLOAT_FILE: exported(packed, "float", threads), FILE: exported(packed, "standard", threads)}
    rows = []
    for batch in batches:
        images = make_images(model, batch)
        timed = [timing.Timed(variant, call) for variant, call in float_nets(twin, images)]
        floats = timed[:]
        for isa, plan in plans.items():
            timed.append(timing.Timed(isa, partial(run_planned, packed, plan, images, threads=threads)))
        timed += [timing.Timed(other, partial(call, images)) for other, call in others.items()]
        mismatches = check(f"{name}, batch {batch}", packed, images, timed, rounded=activations is not None)
        timing.take_turns(timed, rounds=rounds, seconds=seconds)
        named = {one.variant: one for one in timed}
        fastest = min(floats, key=lambda one: one.median)
        against = dict(zip(TO, (timed[0], fastest, named.get(INT8), named.get(FLOAT_FILE)), strict=True))
        for one, wrong in zip(timed, mismatches, strict=True):
            row = {"net": name, "batch": batch, "variant": one.variant, "label_mismatches": wrong}
            row |= {"us": 1e6 * one.median, "fastest_us": 1e6 * min(one.seconds)}
            for to, other in against.items():
                row |= speedups(one, other, to) if other else {}
            rows.append(row)
    return rows
