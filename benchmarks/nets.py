"""Whole packed nets, native on each instruction set, against the same nets in plain torch and float32.

The float nets hold the ±1 weights in ordinary layers: no sign of a weight is taken while they are timed. They run as
they are ("torch"), with BatchNorm folded into torch's own layer before it ("folded"), and folded and frozen, with
weights laid out for oneDNN ("frozen"); images in either memory format. All take turns in one process, and every ratio
is formed within a round: what else the machine does meets all of them alike.

Before anything is timed, the native logits are compared with those of the reference executor, bit for bit, and all
labels of the batch with those of plain torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.training_step import machine
from benchmarks.twins import FLOOR, NETS, build, float_nets, float_twin, make_images
from onebit.common.memory import keep_freed_memory
from onebit.common.tables import resolve
from onebit.errors import OnebitError, UsageError
from onebit.fold import pack
from onebit.native import instruction_sets, make_plan
from onebit.packed import PackedNet, dumps
from onebit.runtime.timing import Reference, Timed, native_call, speedups, take_turns


def check(name: str, packed: PackedNet, images: np.ndarray, timed: Sequence[Timed]) -> list[int]:
    """Compare native logits with the reference, and count the labels that are not plain torch's, the first of `timed`.

    Raises:
        OnebitError: native logits that are not those of the reference executor, bit for bit; or labels that differ in
            more than one image and 5 % of the batch, which rounding does not explain.
    """
    reference = Reference(packed, images)
    floor = timed[0].call().argmax(axis=1)
    mismatches = []
    for one in timed:
        logits = one.call()
        if one.isa is not None:
            reference.check(f"{name}, {one.variant}", logits)
        wrong = int(np.count_nonzero(logits.argmax(axis=1) != floor))
        if wrong > max(1, len(images) // 20):
            raise OnebitError(f"{name}, {one.variant}: {wrong} of {len(images)} labels are not those of plain torch")
        mismatches.append(wrong)
    return mismatches


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--nets", type=lambda text: text.split(","), help=f"which of {','.join(NETS)} (all)")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", help="images in a batch (1; 256 or 64)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on channels and hidden units (1)")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds (11)")
    parser.add_argument("--seconds", type=float, default=0.02, help="of each variant in a round, at least (0.02)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and of packed nets (1)")
    parser.add_argument(
        "--default-malloc", action="store_true", help="leave malloc as it is (see onebit.common.memory); for comparison"
    )


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
        batches: in place of those of the table.
        on_round: called with (rounds done, rounds), for each net and batch.

    Returns:
        machine, settings, and rows of net, batch, variant, instruction set (None for torch), µs per call (median and
        fastest), how many times as fast as plain torch and as the best float net (median over rounds, and of the
        fastest rounds), whether it is that best one, labels that are not plain torch's, bytes packed and in float32.

    Raises:
        UsageError: numbers that are not positive, an unknown net, or no native library.
        OnebitError: see `check`.
    """
    chosen = {name: resolve(NETS, name, kind="net") for name in (NETS if nets is None else nets)}
    if min(rounds, threads, *(batches or ())) < 1 or seconds <= 0:
        raise UsageError("batches, rounds, threads and seconds must be positive")
    if not instruction_sets():
        raise UsageError("the native library is not installed; install onebit where a C compiler is")
    kept = not default_malloc and keep_freed_memory()
    torch.set_num_threads(threads)
    rows = []
    for name, net in chosen.items():
        model = build(net, width=width)
        rows += time_net(
            name, model, batches or net.batches, rounds=rounds, seconds=seconds, threads=threads, on_round=on_round
        )
    return {
        "benchmark": "nets",
        "machine": {**machine(threads), "freed_memory_kept": kept},
        "settings": {"rounds": rounds, "seconds": seconds, "width": width},
        "rows": rows,
    }


def time_net(
    name: str,
    model: nn.Module,
    batches: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    threads: int = 1,
    on_round: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """The rows of `measure` for a model in eval mode; torch runs in the threads it was set to.

    Raises:
        OnebitError: see `check`.
    """
    packed, twin = pack(model), float_twin(model)
    sizes = {
        "packed_bytes": len(dumps(packed)),
        "float_bytes": sum(4 * t.numel() for t in twin.state_dict().values() if t.is_floating_point()),
    }
    plans = {isa: make_plan(packed, found) for isa, found in instruction_sets().items()}
    rows = []
    for batch in batches:
        images = make_images(model, batch)
        timed = [Timed(variant, None, call) for variant, call in float_nets(twin, images)]
        for isa, plan in plans.items():
            timed.append(Timed(isa, isa, native_call(plan, images, threads)))
        mismatches = check(f"{name}, batch {batch}", packed, images, timed)
        take_turns(timed, rounds=rounds, seconds=seconds, on_round=on_round)
        rows += [{"net": name, "batch": batch, **row, **sizes} for row in _rows(timed, mismatches)]
    return rows


def _rows(timed: Sequence[Timed], mismatches: Sequence[int]) -> list[dict[str, Any]]:
    floor = timed[0]
    best = min((one for one in timed if one.isa is None), key=lambda one: one.median)
    return [
        {
            "variant": one.variant,
            "instruction_set": one.isa,
            "us": 1e6 * one.median,
            "fastest_us": 1e6 * min(one.seconds),
            **speedups(one, floor, "torch"),
            **speedups(one, best, "best"),
            "best": one is best,
            "label_mismatches": wrong,
        }
        for one, wrong in zip(timed, mismatches, strict=True)
    ]


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    where, how = result["machine"], result["settings"]
    head = ("variant", "µs", "fastest", "× torch", "fastest", "× best", "fastest", "labels")
    lines = [
        f"logits of a batch in µs, median and fastest of {how['rounds']} rounds; width {how['width']:g}",
        f"{where['cpu']}, {where['cores']} cores; torch {where['torch']}, {where['threads']} thread(s), "
        f"freed memory {'kept' if where['freed_memory_kept'] else 'given back'}",
        "× torch, × best: how many times as fast as plain torch, and as the float32 net marked *; labels: that differ",
    ]
    for row in result["rows"]:
        if row["variant"] == FLOOR:
            sizes = f"{row['packed_bytes']:,} bytes packed, {row['float_bytes']:,} in float32"
            lines += ["", f"{row['net']}, batch {row['batch']}; {sizes}", _line(*head)]
        speedups = (
            f"{row[f'{to}_{which}']:.2f}" for to in ("torch", "best") for which in ("speedup", "fastest_speedup")
        )
        name = f"{row['variant']}{' *' if row['best'] else ''}"
        times = (f"{row[key]:,.{0 if row[key] > 1000 else 1}f}" for key in ("us", "fastest_us"))
        lines.append(_line(name, *times, *speedups, f"{row['label_mismatches']}"))
    return "\n".join(lines)


def _line(name: str, *cells: str) -> str:
    widths = (12, 12, 9, 9, 9, 9, 8)
    return f"{name:<26}" + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
