"""The training step of a binary net against the same net in plain torch with fused Adam.

BinaryConnect's MNIST net 784–3×2048–10, or a convolutional net in each memory format and precision. All variants take
turns in one process, a few steps each, and every ratio is that of one round, so that other load on the machine affects
all of them alike. The main figure is the median of these ratios. Also reported: the ratio of the fastest rounds, and
the ratio of CPU times, which does not count time that other processes used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onebit
from benchmarks.shared import add_rounds, describe_machine, set_up_process
from benchmarks.variants import (
    EAGER,
    EVERY_LAYER,
    FLOOR,
    Run,
    Variant,
    add_net_options,
    batch_size,
    build,
    check,
    chosen,
    mlp_widths,
    settings_of,
)

__all__ = ["EAGER", "FLOOR", "add_options", "check", "describe", "measure"]


@dataclass
class _Timed:
    """A net, and its seconds per step of each round."""

    run: Run
    first_seconds: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, steps: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.run.step()
        self.wall.append((time.perf_counter() - wall) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    add_net_options(parser)
    add_rounds(parser, 15)
    parser.add_argument("--steps", type=int, help="steps of each net in a round (3 for the mlp, 1 for other nets)")
    parser.add_argument("--compile", action="store_true", help="also with compiled updates (takes minutes to compile)")


def measure(
    *,
    model: str = "mlp",
    width: float = 1.0,
    variants: Sequence[str | Variant] | None = None,
    rounds: int = 15,
    steps: int | None = None,
    batch: int | None = None,
    threads: int = 1,
    compile: bool = False,
    default_malloc: bool = False,
    widths: Sequence[int] | None = None,
    options: Mapping[str, Any] = EVERY_LAYER,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check all variants, then time them in turn.

    Args:
        model, width: see `benchmarks.variants.build`.
        variants: the variants or their names; the binary ones of EAGER for None.
        widths: of the mlp, in place of `width`.
        options: of a convolutional model, see `benchmarks.variants.build`.
        on_round: called with (rounds done, rounds).

    Returns:
        machine, settings, and rows of variant, precision, memory format, ms (median, fastest, CPU), ratio to the floor,
        plain torch in float32 and NCHW (median over rounds, fastest rounds, CPU time), the same ratios to plain torch
        in the same precision and memory format, and the seconds of the first step.

    Raises:
        UsageError: numbers that are not positive, or an unknown model or variant.
        NotBinaryError: see `benchmarks.variants.check`.
    """
    steps = (3 if model == "mlp" else 1) if steps is None else steps
    if min(rounds, steps, threads) < 1:
        raise onebit.errors.UsageError("rounds, steps and threads must be 1 or more")
    batch = batch_size(model, batch)
    widths = mlp_widths(width) if widths is None else widths
    where = set_up_process(threads, default_malloc=default_malloc)
    timed: list[_Timed] = []
    for setting in settings_of(model):
        for variant in chosen(variants, compile=compile):
            run = build(variant, setting, model=model, batch=batch, width=width, widths=widths, options=options)
            started = time.perf_counter()
            run.step()
            timed.append(_Timed(run, time.perf_counter() - started))
            check(run.net, run.optimizer, run.step)
    for done in range(rounds):
        for one in timed:
            one.time(steps)
        if on_round is not None:
            on_round(done + 1, rounds)
    floors = {one.run.setting: one for one in timed if one.run.variant.name == FLOOR}
    net = {"widths": list(widths)} if model == "mlp" else {"width": width, "options": dict(options)}
    return {
        "benchmark": "training-step",
        "machine": where,
        "settings": {"model": model, **net, "batch": batch, "rounds": rounds, "steps": steps},
        "rows": [_row(one, timed[0], floors[one.run.setting]) for one in timed],
    }


def _ratios(of: _Timed, to: _Timed, prefix: str = "") -> dict[str, float]:
    def median(a: list[float], b: list[float]) -> float:
        return statistics.median(x / y for x, y in zip(a, b, strict=True))

    return {
        f"{prefix}ratio": median(of.wall, to.wall),
        f"{prefix}fastest_ratio": min(of.wall) / min(to.wall),
        f"{prefix}cpu_ratio": median(of.cpu, to.cpu),
    }


def _row(one: _Timed, floor: _Timed, same: _Timed) -> dict[str, Any]:
    return {
        "variant": one.run.variant.name,
        "precision": one.run.setting.precision,
        "memory_format": one.run.setting.memory_format,
        "ms": 1e3 * statistics.median(one.wall),
        "fastest_ms": 1e3 * min(one.wall),
        "cpu_ms": 1e3 * statistics.median(one.cpu),
        **_ratios(one, floor),
        **_ratios(one, same, "same_precision_"),
        "first_step_seconds": one.first_seconds,
    }


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    where, how = result["machine"], result["settings"]
    dense = "widths" in how
    name = "–".join(map(str, how["widths"])) if dense else f"{how['model']}, width {how['width']:g}"
    head = ("", "ms", "× floor", "fastest", "CPU", "× twin", "fastest", "CPU", "first step")
    widths = (30 if dense else 42, 8, 9, 9, 8, 9, 9, 8, 12)
    ratios = ("ratio", "fastest_ratio", "cpu_ratio")
    table = [
        (
            f"{row['precision']}  {row['variant']}"
            if dense
            else f"{row['precision']}  {row['memory_format']:<15}{row['variant']}",
            f"{row['ms']:.1f}",
            *(f"{row[key]:.3f}" for key in (*ratios, *(f"same_precision_{key}" for key in ratios))),
            f"{row['first_step_seconds']:.1f} s",
        )
        for row in result["rows"]
    ]
    lines = [
        f"training step of {name}, batch {how['batch']}; {how['rounds']} rounds of {how['steps']} steps",
        describe_machine(where),
        f"floor: plain torch in fp32{'' if dense else ' and NCHW'}; twin: plain torch in the same "
        f"precision{'' if dense else ' and memory format'}",
        "",
        *(
            "".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
            )
            for cells in (head, *table)
        ),
    ]
    return "\n".join(lines)
