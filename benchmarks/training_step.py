"""The training step of a binary net against the same net in plain torch with fused Adam.

BinaryConnect's MNIST net 784–3×2048–10, or a convolutional net in each memory format and precision. All variants take
turns in one process, some steps each, and every ratio is that of one round, so that other load on the machine affects
all of them alike. `ratio` is to plain torch in float32 and NCHW, `twin_ratio` to plain torch in the same precision and
memory format; both are medians. `first_seconds` is the first step, which compiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onebit
from benchmarks.shared import add_timing, ratio, set_up_process, words
from benchmarks.variants import (
    COMPILED,
    EAGER,
    EVERY_LAYER,
    FLOOR,
    VARIANTS,
    Run,
    Variant,
    build,
    check,
    mlp_widths,
    settings_of,
)

timing = onebit.runtime.timing

COLUMNS = {"precision": "", "memory_format": "", "variant": "", "ms": ".1f", "fastest_ms": ".1f"}
COLUMNS |= {"ratio": ".3f", "twin_ratio": ".3f", "first_seconds": ".1f"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--model", default="mlp", help="mlp (784–3×2048–10), resnet20, vgg_small, … on 32×32 images")
    parser.add_argument("--width", type=float, default=1.0, help="factor on channels and hidden units (1)")
    parser.add_argument("--variants", type=words, default=list(EAGER), help=f"which of {','.join(VARIANTS)}")
    parser.add_argument("--batch", type=int, help="images per step (100 for the mlp, 125 for other nets)")
    parser.add_argument("--compile", action="store_true", help="also with compiled updates (takes minutes to compile)")
    parser.add_argument("--without-kernels", action="store_true", help="also with ONEBIT_NATIVE=0")
    add_timing(parser, rounds=15, seconds=0.2)


def measure(
    *,
    model: str = "mlp",
    width: float = 1.0,
    variants: Sequence[str | Variant] = EAGER,
    batch: int | None = None,
    compile: bool = False,
    without_kernels: bool = False,
    rounds: int = 15,
    seconds: float = 0.2,
    threads: int = 1,
    widths: Sequence[int] | None = None,
    options: Mapping[str, Any] = EVERY_LAYER,
) -> dict[str, Any]:
    """Check all variants, then time them in turn.

    Args:
        variants: the variants or their names. widths: of the mlp, in place of `width`.
        options: of a convolutional model, see `benchmarks.variants.build`.

    Raises:
        NotBinaryError: see `benchmarks.variants.check`.
    """
    batch = batch or (100 if model == "mlp" else 125)
    set_up_process(threads)
    chosen = [VARIANTS[one] if isinstance(one, str) else one for one in variants]
    slower = [replace(one, name=f"{one.name}, ONEBIT_NATIVE=0", kernels=False) for one in chosen if without_kernels]
    compilable = [one for one in chosen if compile and one.name in COMPILED]
    compiled = [replace(one, name=f"{one.name}, compiled", compiled=True) for one in compilable]
    runs: list[tuple[Run, timing.Timed, float]] = []
    for setting in settings_of(model):
        for variant in (FLOOR, *chosen, *slower, *compiled):
            run = build(
                variant,
                setting,
                model=model,
                batch=batch,
                width=width,
                widths=widths or mlp_widths(width),
                options=options,
            )
            started = time.perf_counter()
            run.step()
            runs.append((run, timing.Timed(variant.name, None, run.step), time.perf_counter() - started))
            check(run.net, run.optimizer, run.step)
    timing.take_turns([timed for _, timed, _ in runs], rounds=rounds, seconds=seconds)
    floor = runs[0][1]
    twins = {run.setting: timed for run, timed, _ in runs if run.variant == FLOOR}
    rows = [
        {
            "variant": run.variant.name,
            "precision": run.setting.precision,
            "memory_format": run.setting.memory_format,
            "ms": 1e3 * timed.median,
            "fastest_ms": 1e3 * min(timed.seconds),
            "ratio": ratio(timed.seconds, floor.seconds),
            "twin_ratio": ratio(timed.seconds, twins[run.setting].seconds),
            "first_seconds": first,
        }
        for run, timed, first in runs
    ]
    return {"rows": rows}
