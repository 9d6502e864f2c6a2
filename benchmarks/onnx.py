"""Exported ONNX files in onnxruntime, against the same nets as plain float32 ONNX files, which are 32 times as large.

`onebit export --to onnx` writes both: the second with `--flavor float`. They take turns in one process, and every ratio
is that of one round. Before anything is timed, the outputs of both must be equal, bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import onebit
from benchmarks.shared import (
    add_process_options,
    add_rounds,
    add_seconds,
    describe_machine,
    need_positive,
    set_up_process,
)
from benchmarks.twins import NETS, build, packed_form
from onebit.export.onnx import target
from onebit.export.writing import random_inputs

timing = onebit.runtime.timing

FLAVORS = ("float", "standard")
BATCHES = (1, 100)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--nets", type=lambda text: text.split(","), help=f"which of {','.join(NETS)} (all)")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", default=BATCHES, help="batch sizes (1, 100)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on channels and hidden units (1)")
    add_rounds(parser, 11)
    add_seconds(parser, 0.05)
    add_process_options(parser)


def measure(
    *,
    nets: Sequence[str] | None = None,
    batches: Sequence[int] = BATCHES,
    width: float = 1.0,
    rounds: int = 11,
    seconds: float = 0.05,
    threads: int = 1,
    default_malloc: bool = False,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Export each net in both ways, compare them, then time them in turn.

    Args:
        nets: names in NETS; all for None.
        on_round: called with (rounds done, rounds), for each net and batch.

    Returns:
        machine, settings, and rows of net, batch, flavor, bytes of the file, ms to load it, µs per call (median and
        fastest), speed-up over the float file (median over rounds, and of the fastest rounds), and the operators that
        onnxruntime runs after its optimizations.

    Raises:
        UsageError: numbers that are not positive, or an unknown net.
        OnebitError: outputs of the two files that differ.
    """
    chosen = [onebit.common.tables.resolve(NETS, name, kind="net") for name in (NETS if nets is None else nets)]
    need_positive(seconds, batches=min(batches, default=1), rounds=rounds, threads=threads)
    where = set_up_process(threads, default_malloc=default_malloc)
    rows = []
    for name, net in zip(NETS if nets is None else nets, chosen, strict=True):
        packed = packed_form(build(net, width=width), net.activations)
        loaded = {flavor: load(packed, flavor, threads) for flavor in FLAVORS}
        for batch in batches:
            inputs = random_inputs(packed, batch)
            timed = [timing.Timed(flavor, None, call(session, inputs)) for flavor, (session, _) in loaded.items()]
            float_answer, answer = (one.call() for one in timed)
            if float_answer.tobytes() != answer.tobytes():
                raise onebit.errors.OnebitError(f"{name}, batch {batch}: the two files give different outputs")
            timing.take_turns(timed, rounds=rounds, seconds=seconds, on_round=on_round)
            rows += [
                {
                    "net": name,
                    "batch": batch,
                    "flavor": one.variant,
                    **loaded[one.variant][1],
                    "us": 1e6 * one.median,
                    "fastest_us": 1e6 * min(one.seconds),
                    **timing.speedups(one, timed[0], "float"),
                }
                for one in timed
            ]
    return {
        "benchmark": "onnx",
        "machine": {**where, "onnxruntime": onnxruntime.__version__},
        "settings": {"rounds": rounds, "seconds": seconds, "width": width},
        "rows": rows,
    }


def call(session: Any, inputs: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that computes the outputs of a batch."""
    return lambda: session.run(None, {"input": inputs})[0]


def load(net: onebit.packed.PackedNet, flavor: str, threads: int) -> tuple[Any, dict[str, Any]]:
    """A session of an exported net; bytes of the file, ms to load it, and the operators that are left."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path, optimized = Path(folder) / "net.onnx", Path(folder) / "optimized.onnx"
        target.write(net, path, flavor=flavor)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.log_severity_level = 3
        started = time.perf_counter()
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        milliseconds = 1e3 * (time.perf_counter() - started)
        settings.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        operators = Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)
        return session, {"bytes": path.stat().st_size, "load_ms": milliseconds, "operators": dict(operators)}


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    how = result["settings"]
    lines = [
        f"ONNX files: µs a batch, median and fastest of {how['rounds']} rounds; width {how['width']:g}",
        f"{describe_machine(result['machine'])}, onnxruntime {result['machine']['onnxruntime']}",
        _line("net", "batch", "flavor", "bytes", "load ms", "µs", "fastest", "× float", "fastest"),
    ]
    for row in result["rows"]:
        numbers = (f"{row['bytes']:,}", f"{row['load_ms']:.0f}", f"{row['us']:,.0f}", f"{row['fastest_us']:,.0f}")
        ratios = (f"{row[f'float_{which}']:.2f}" for which in ("speedup", "fastest_speedup"))
        lines.append(_line(row["net"], str(row["batch"]), row["flavor"], *numbers, *ratios))
    return "\n".join(lines)


def _line(net: str, *cells: str) -> str:
    widths = (6, 10, 12, 9, 12, 12, 9, 9)
    return f"{net:<18}" + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
