"""The training step of convolutional nets with the kernels of this library, against the same net in plain torch.

The same model with `ONEBIT_NATIVE=0` and without takes turns in one process. The figure is the median of the ratios of
the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import onebit
from benchmarks.shared import (
    add_process_options,
    add_rounds,
    describe_machine,
    native_sets,
    own_kernels,
    set_up_process,
)
from benchmarks.variants import CPU, EAGER, METHODS, Setting, batch_size, build

NETS = (*(("resnet20", name, 1.0) for name in ("sign", "bnn", "irnet", "react")), ("vgg_small", "bnn", 0.25))
"""Model, variant and width."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    add_rounds(parser, 11)
    parser.add_argument("--batch", type=int, default=125, help="images per step (125)")
    add_process_options(parser)


def measure(
    *,
    rounds: int = 11,
    batch: int = 125,
    threads: int = 1,
    default_malloc: bool = False,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time steps in turn.

    Args:
        on_round: called with (rounds done, rounds).

    Returns:
        machine, settings, and rows of model, variant, width, milliseconds of both, and the median ratio.

    Raises:
        UsageError: numbers that are not positive, or no native library.
    """
    if min(rounds, threads) < 1:
        raise onebit.errors.UsageError("rounds and threads must be 1 or more")
    batch = batch_size("resnet20", batch)
    with own_kernels(True):
        native_sets()
    where = set_up_process(threads, default_malloc=default_malloc)
    precision = "bf16" if onebit.evaluation.precision.multiplies_bf16(CPU) else "fp32"
    variants = {variant.name: variant for variant in (*EAGER, *METHODS)}
    rows = []
    for done, (model, name, width) in enumerate(NETS):
        setting = Setting(precision, "channels_last")
        run = build(variants[name], setting, model=model, batch=batch, width=width, widths=())
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for at in range(-2, rounds):
            for fused, found in seconds.items():
                started = time.perf_counter()
                run.step(kernels=fused)
                if at >= 0:  # the first ones set up the kernels of torch
                    found.append(time.perf_counter() - started)
            if on_round is not None and at >= 0:
                on_round(done * rounds + at + 1, rounds * len(NETS))
        ratios = [plain / fused for plain, fused in zip(seconds[False], seconds[True], strict=True)]
        milliseconds = {fused: 1e3 * statistics.median(found) for fused, found in seconds.items()}
        rows.append(
            {
                "model": model,
                "variant": name,
                "width": width,
                "torch_ms": milliseconds[False],
                "fused_ms": milliseconds[True],
                "ratio": statistics.median(ratios),
            }
        )
    settings = {"batch": batch, "rounds": rounds, "precision": precision}
    return {"benchmark": "fused-step", "machine": where, "settings": settings, "rows": rows}


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    how = result["settings"]
    lines = [
        f"training step, batch {how['batch']}, {how['precision']}, channels_last; {how['rounds']} rounds",
        describe_machine(result["machine"]),
        "",
        f"{'net':<34}{'torch ms':>10}{'fused ms':>10}{'times faster':>14}",
    ]
    for row in result["rows"]:
        net = f"{row['model']}, {row['variant']}, width {row['width']:g}"
        lines.append(f"{net:<34}{row['torch_ms']:>10.1f}{row['fused_ms']:>10.1f}{row['ratio']:>14.2f}")
    return "\n".join(lines)
