"""Single products with one-bit weights, on each instruction set, against the same products in float32 and 8 bits.

A case is a layer with ±1 inputs ("xnor"), real inputs ("weights"), real inputs as after a ReLU ("relu"), a uint8 image
("first") or the bytes of an integer net ("integer"). The timed call is the one that whole nets run. With real inputs it
includes rounding them to a grid; with ±1 inputs it does not include taking their signs, which the previous layer does.
Sums are written as float products write theirs.

"torch" is F.linear or F.conv2d with the ±1 weights in float32. The best of float32 is the fastest of that,
channels_last, weights prepacked for oneDNN, and onnxruntime. int8 is the fastest of onnxruntime's MatMulInteger, or
ConvInteger and QLinearConv, on quantized inputs. All take turns in one process, and every ratio is that of one round.

Before anything is timed, the logits of the whole plan are compared bit for bit with those of the reference executor,
and the result of each call with plain torch's.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import onebit
from benchmarks.kernel_pictures import draw, open_picture
from benchmarks.layers import CASES, KINDS, Case, Layer, scaling_cases
from benchmarks.peaks import clock, limit, microarchitecture
from benchmarks.rivals import Rival, onnxruntime_version
from benchmarks.shared import add_process_options, add_rounds, add_seconds, native_sets, need_positive, set_up_process

abi, timing = onebit.native.abi, onebit.runtime.timing

RIVALS = ("torch", "best", "int8")
"""Plain torch, the fastest way in float32, and the fastest in 8 bits."""


@dataclass(frozen=True)
class _Native:
    """A product of a plan, its batch split between threads: a call for each part, and the index of its first image."""

    isa: str
    step: str
    calls: Sequence[Callable[[], np.ndarray]]
    firsts: Sequence[int]
    timed: timing.Timed


def matmuls(plan: onebit.native.NativePlan) -> tuple[int, ...]:
    """Indices of the calls that multiply by weights."""
    return tuple(index for index, call in enumerate(plan.kept[0]) if call.weights)


def alone(plan: onebit.native.NativePlan, images: np.ndarray, calls: range) -> Callable[[], np.ndarray]:
    """A function that runs only some kernel calls of a plan, to time them.

    The calls before them run once, now, to leave their inputs in memory. None of `calls` may overwrite the input of one
    before it: values stay in place only until the last call that reads them.

    Args:
        images: as for `NativePlan.run`. More images than the plan's batch are computed batch by batch, but every batch
            uses the values of the first images.

    Returns:
        The function. It returns the output of the last call, (images of a batch, units) int32 in NHWC order (the bits
        of float32 for real values): a view that the next call overwrites.
    """
    arena, count = plan.arena(), min(len(images), plan.plan.batch)
    memory, last = arena.ctypes.data, plan.kept[0][calls[-1]]
    before, part = (abi.PlanStruct.from_buffer_copy(plan.plan) for _ in range(2))
    before.call_count, part.call_count = calls.start, len(calls)
    part.calls += calls.start * ctypes.sizeof(abi.CallStruct)
    before.output_count = part.output_count = 0  # no output is copied,
    part.input = -1  # and no image is coded, so their addresses do not matter
    plan.isa.run(ctypes.byref(before), images.ctypes.data, count, memory, memory, 0, 1, None)
    arguments = (ctypes.byref(part), memory, len(images), memory, memory, 0, 1, None)
    made = arena[last.out : last.out + count * last.out_size].view(np.int32).reshape(count, -1)

    def run_calls() -> np.ndarray:
        plan.isa.run(*arguments)
        return made

    return run_calls


def _native(isa: str, layer: Layer, plan: onebit.native.NativePlan, pool: ThreadPoolExecutor, threads: int) -> _Native:
    parts = np.array_split(layer.images, min(threads, len(layer.images)))
    (product,) = matmuls(plan)
    grid = product > 0 and plan.kernels[product - 1] == "grid"
    calls = [alone(plan, part, range(product - grid, product + 1)) for part in parts]
    firsts = [sum(map(len, parts[:index])) for index in range(len(parts))]

    def together() -> None:
        for _ in pool.map(lambda call: call(), calls):
            pass

    return _Native(
        isa,
        plan.kernels[product],
        calls,
        firsts,
        timing.Timed(isa, isa, calls[0] if len(calls) == 1 else together),
    )


def check(
    name: str,
    layer: Layer,
    plans: Mapping[str, onebit.native.NativePlan],
    native: Sequence[_Native],
    rivals: Sequence[Rival],
) -> None:
    """Compare the logits of whole plans with the reference, and the timed products with plain torch's.

    Raises:
        OnebitError: one of them differs: integers in any way, other numbers by more than rounding explains.
    """
    reference = timing.Reference(layer.packed, layer.images)
    for isa, plan in plans.items():
        reference.check(f"{name}, {isa}", plan.run(layer.images)[0])
    for one in native:
        for call, first in zip(one.calls, one.firsts, strict=True):
            for _ in range(2):  # a call must not overwrite its inputs
                sums = layer.native_sums(call())
                _agree(f"{name}, {one.isa}", sums, layer.sums[first : first + len(sums)], layer.slack)
    for rival in rivals:
        expected = layer.sums if not rival.int8 else rival.product.compute().numpy().astype(np.float64)
        _agree(f"{name}, {rival.name}", rival.sums(rival.call()), expected, rival.slack)


def _agree(who: str, found: np.ndarray, expected: np.ndarray, slack: float) -> None:
    wrong = int(np.count_nonzero(~(np.abs(found - expected) <= slack)))  # NaN is wrong, too
    if wrong:
        raise onebit.errors.OnebitError(f"{who}: {wrong:,} of {found.size:,} sums are not those of plain torch")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""

    def names(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("--cases", type=names, help=f"which of {','.join(CASES)} (all)")
    parser.add_argument(
        "--isa", type=names, help="instruction sets of packed nets, as avx2,avx512 (all of this machine)"
    )
    add_rounds(parser, 11)
    add_seconds(parser, 0.02)
    add_process_options(parser)
    parser.add_argument("--scaling", action="store_true", help="a curve over sizes and batches in place of the cases")
    parser.add_argument("--picture", metavar="FILE.png", help="draw the ratios, or the curve")


def measure(
    *,
    cases: Sequence[str | Case] | None = None,
    isa: Sequence[str] | None = None,
    rounds: int = 11,
    seconds: float = 0.02,
    threads: int = 1,
    scaling: bool = False,
    picture: str | os.PathLike[str] | None = None,
    default_malloc: bool = False,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check all products, then time their variants in turn.

    Args:
        cases: names in CASES, or cases; all for None.
        isa: instruction sets; all of this machine for None, or the best of them with `scaling`.
        scaling: square dense layers of every size in place of the cases, without int8.
        picture: PNG file for a chart of the ratios.
        on_round: called with (rounds done, rounds), for each case and batch.

    Returns:
        machine, settings, and rows of kind, layer, size, batch, instruction set, kernel, µs per call (median and
        fastest); the same of plain torch, of the best of float32 with its name, and of int8 (None without onnxruntime);
        the speed-up over each (median over rounds, and of the fastest rounds); multiply-accumulates per cycle (median
        and fastest round) and their share of the limit (None if unknown).

    Raises:
        UsageError: numbers that are not positive, an unknown case or instruction set, a curve of more than one, no
            native library, or a picture that cannot be drawn.
        OnebitError: see `check`.
    """
    need_positive(seconds, rounds=rounds, threads=threads)
    if scaling and (cases is not None or (isa is not None and len(isa) > 1)):
        raise onebit.errors.UsageError("--scaling has its own layers, and takes one instruction set")
    known = native_sets()
    default = list(known)[-1:] if scaling else list(known)
    isas = {
        name: onebit.common.tables.resolve(known, name, kind="instruction set of this machine")
        for name in isa or default
    }
    named = [onebit.common.tables.resolve(CASES, case, kind="case") for case in (CASES if cases is None else cases)]
    chosen = scaling_cases() if scaling else named
    where = set_up_process(threads, default_malloc=default_malloc)
    rows = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        figure = None
        if picture is not None:  # opened first: an error must not come after the measurement
            count = sum(len(case.batches) for case in chosen)
            figure = stack.enter_context(open_picture(picture, count, scaling=scaling))
        stack.enter_context(torch.inference_mode())
        for case in chosen:
            for batch in case.batches:
                rows += time_layer(
                    Layer(case, batch),
                    isas,
                    pool,
                    rounds=rounds,
                    seconds=seconds,
                    threads=threads,
                    int8=not scaling,
                    on_round=on_round,
                )
        where |= {"microarchitecture": microarchitecture(), "onnxruntime": onnxruntime_version()}
        result = {
            "benchmark": "kernels",
            "machine": where,
            "settings": {"rounds": rounds, "seconds": seconds, "scaling": scaling},
            "rows": rows,
        }
        if figure is not None:
            draw(figure, result)
    return result


def time_layer(
    layer: Layer,
    isas: Mapping[str, onebit.native.InstructionSet],
    pool: ThreadPoolExecutor,
    *,
    rounds: int,
    seconds: float,
    threads: int,
    int8: bool,
    on_round: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """The rows of `measure` for a layer and a batch; torch uses the threads that it is set to.

    Raises:
        OnebitError: see `check`.
    """
    plans = {name: onebit.native.make_plan(layer.packed, isa) for name, isa in isas.items()}
    native = [_native(name, layer, plan, pool, threads) for name, plan in plans.items()]
    rivals = layer.rivals(threads=threads, int8=int8)
    check(f"{layer.case.name}, batch {len(layer.images)}", layer, plans, native, rivals)
    hertz: dict[str | None, list[float]] = {name: [] for name in isas}

    def read_clock(one: timing.Timed) -> None:
        if one.isa in hertz and (found := clock()) is not None:
            hertz[one.isa].append(found)

    against = [timing.Timed(rival.name, None, rival.call) for rival in rivals]
    timed = [*(one.timed for one in native), *against]
    timing.take_turns(timed, rounds=rounds, seconds=seconds, after=read_clock, on_round=on_round)
    of_float = [one for one, rival in zip(against, rivals, strict=True) if not rival.int8]
    of_int8 = [one for one, rival in zip(against, rivals, strict=True) if rival.int8]
    fastest = {"torch": against[0], "best": _fastest(of_float), "int8": _fastest(of_int8)}
    return [_row(layer, one, fastest, statistics.median(hertz[one.isa] or [0.0]) or None) for one in native]


def _row(layer: Layer, one: _Native, fastest: Mapping[str, timing.Timed | None], hertz: float | None) -> dict[str, Any]:
    row = {
        "kind": layer.case.kind,
        "layer": layer.case.text,
        "size": layer.case.outputs,
        "batch": len(layer.images),
        "instruction_set": one.isa,
        "step": one.step,
        "us": 1e6 * one.timed.median,
        "fastest_us": 1e6 * min(one.timed.seconds),
    }
    for name, rival in fastest.items():
        row |= {name: rival and rival.variant, f"{name}_us": rival and 1e6 * rival.median}
        row |= timing.speedups(one.timed, rival, name) if rival else dict.fromkeys(_ratios(name))
    most = limit(microarchitecture(), one.isa, one.step)
    row |= {"clock_ghz": hertz and hertz / 1e9, "limit": most}
    for name, seconds in (("", one.timed.median), ("fastest_", min(one.timed.seconds))):
        rate = hertz and layer.macs / (seconds * hertz * len(one.calls))  # of a core
        row |= {f"{name}mac_per_cycle": rate, f"{name}peak_share": rate / most if rate and most else None}
    return row


def _fastest(timed: Sequence[timing.Timed]) -> timing.Timed | None:
    return min(timed, key=lambda one: one.median, default=None)


def _ratios(name: str) -> tuple[str, str]:
    return f"{name}_speedup", f"{name}_fastest_speedup"


def describe(result: dict[str, Any]) -> str:
    """The result as text with a Markdown table."""
    where, how = result["machine"], result["settings"]
    clocks = [row["clock_ghz"] for row in result["rows"] if row["clock_ghz"]]
    speed = f", {statistics.median(clocks):.2f} GHz measured" if clocks else ""
    lines = [
        f"{where['cpu']} ({where['microarchitecture'] or 'limits not known'}{speed}), {where['cores']} cores; torch "
        f"{where['torch']}, {where['threads']} thread(s)",
        f"medians of {how['rounds']} rounds, in brackets the fastest; × torch, × float32, × int8: speed-up over plain "
        "torch, over the fastest in float32, and over onnxruntime in 8 bits",
    ]
    if where["onnxruntime"] is None:
        lines.append("onnx and onnxruntime are not installed and not compared: pip install 'onebit[bench]'")
    return "\n".join([*lines, "", *(_curve(result["rows"]) if how["scaling"] else _table(result["rows"]))])


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = ("product", "batch", "instructions", "µs", "torch, µs", "× torch", "× float32", "which", "× int8")
    lines = [_line(*head, "MAC/cycle", "% of peak"), _line(*["---"] * 3, *["---:"] * 4, "---", *["---:"] * 3)]
    for row in rows:
        cells = [f"{KINDS[row['kind']]}, {row['layer']}", f"{row['batch']}", f"`{row['instruction_set']}`"]
        cells += [_both(row["us"], row["fastest_us"]), _short(row["torch_us"])]
        ratios = [_both(*(row[key] for key in _ratios(name))) for name in RIVALS]
        cells += [*ratios[:2], row["best"], ratios[2], _both(row["mac_per_cycle"], row["fastest_mac_per_cycle"])]
        share, fastest = (row[key] and 100 * row[key] for key in ("peak_share", "fastest_peak_share"))
        lines.append(_line(*cells, _both(share, fastest)))
    return lines


def _curve(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The speed-up over the best of float32, a row for each batch, and the sizes at which float32 is faster."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = [row for row in rows if row["kind"] == kind]
        sizes, batches = (list(dict.fromkeys(row[key] for row in of)) for key in ("size", "batch"))
        isa = of[0]["instruction_set"]
        lines += [
            f"{KINDS[kind]}, `{isa}`, × float32 of dense layers with K = N:",
            "",
            _line("batch", *(f"{size}" for size in sizes), "float32 is faster at"),
            _line("---", *["---:"] * len(sizes), "---"),
        ]
        for batch in batches:
            found = [row for row in of if row["batch"] == batch]
            slower = [f"{row['size']}" for row in found if row["best_speedup"] < 1]
            ratios = [_both(row["best_speedup"], row["best_fastest_speedup"]) for row in found]
            lines.append(_line(f"{batch}", *ratios, f"K = N = {', '.join(slower)}" if slower else "none"))
        lines.append("")
    return lines[:-1]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _both(median: float | None, fastest: float | None) -> str:
    return "–" if median is None else f"{_short(median)} ({_short(fastest)})"


def _short(number: float | None) -> str:
    """Two decimals for small numbers, none for large ones."""
    if number is None:
        return "–"
    return f"{number:,.{2 if number < 10 else 1 if number < 100 else 0}f}"
