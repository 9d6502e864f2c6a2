"""Peak memory of training a binary net against the same net in plain torch.

Each variant trains some steps in a process of its own. Two figures: the most bytes that tensors took at one time, from
the net's first to the last step, which repeats exactly; and the highest resident memory of the process above what it
held with torch loaded, which adds what the libraries beneath take and what malloc leaves unused, and varies by 10 %.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training_step import machine
from benchmarks.variants import (
    COMPILED,
    EAGER,
    FLOOR,
    METHODS,
    Setting,
    add_net_options,
    batch_size,
    build,
    chosen,
    mlp_widths,
    settings_of,
)
from onebit.common.memory import keep_freed_memory
from onebit.errors import OnebitError, UsageError

KINDS = ("tensor_bytes", "resident_bytes")
STATUS = Path("/proc/self/status")
CHILD = (
    "import json, sys; from benchmarks.training_memory import train_here; "
    "print(json.dumps(train_here(**json.loads(sys.argv[1]))))"
)


def resident(field: str) -> int:
    """Bytes of this process in memory: now ("VmRSS"), or at the most since `forget_peak` ("VmHWM").

    Raises:
        UsageError: the system does not tell.
    """
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise UsageError(f"training-memory reads {STATUS}, which only Linux has") from error
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Let "VmHWM" begin anew, where the system allows it."""
    with suppress(OSError):
        STATUS.with_name("clear_refs").write_text("5", encoding="ascii")


def tensor_peak(train: Callable[[], object]) -> int:
    """The most bytes that tensors on the CPU take at one time while `train` runs, above those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    # a stable sort: what happens within the clock's step stays in the order of its happening
    return max(accumulate(change for _, change in sorted(changes, key=lambda change: change[0])))


def train_here(
    *,
    variant: str,
    precision: str,
    memory_format: str,
    model: str,
    width: float,
    batch: int,
    steps: int,
    threads: int,
    default_malloc: bool,
) -> dict[str, int]:
    """Train in this process, once to look at the process and once at its tensors.

    Returns:
        bytes by which resident memory rose, and bytes that tensors took.
    """
    found = next(v for v in (*EAGER, *METHODS, *COMPILED) if v.name == variant)
    torch.set_num_threads(threads)
    if not default_malloc:
        keep_freed_memory()
    # the first optimizer of a process loads what all of them use: memory that belongs to no net
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight], fused=True).step()
    forget_peak()
    before = resident("VmRSS")

    def train() -> None:
        setting = Setting(precision, memory_format)
        run = build(found, setting, model=model, batch=batch, width=width, widths=mlp_widths(width))
        for _ in range(steps):
            run.step()

    train()
    rise = resident("VmHWM") - before
    gc.collect()
    return {"resident_bytes": rise, "tensor_bytes": tensor_peak(train)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    add_net_options(parser)
    parser.add_argument("--rounds", type=int, default=5, help="processes for each net (5)")
    parser.add_argument("--steps", type=int, default=3, help="steps in each process (3)")
    parser.add_argument("--compile", action="store_true", help="with compiled updates as well (minutes to compile)")


def measure(
    *,
    model: str = "mlp",
    width: float = 1.0,
    variants: Sequence[str] | None = None,
    rounds: int = 5,
    steps: int = 3,
    batch: int | None = None,
    threads: int = 1,
    compile: bool = False,
    default_malloc: bool = False,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train every variant in processes of its own, in turn.

    Args:
        model, width: see `benchmarks.variants.build`.
        variants: names of the binary variants; all for None.
        on_round: called with (rounds done, rounds).

    Returns:
        machine, settings, and rows of variant, precision, memory format, most bytes of tensors and of resident memory
        (median and largest), and the ratios of both to plain torch in the same precision and memory format.

    Raises:
        UsageError: numbers that are not positive, an unknown model or variant, or another system than Linux.
        OnebitError: a process that fails.
    """
    if min(rounds, steps, threads) < 1:
        raise UsageError("rounds, steps and threads must be 1 or more")
    resident("VmHWM")
    batch = batch_size(model, batch)
    kinds = [(setting, variant) for setting in settings_of(model) for variant in chosen(variants, compile=compile)]
    common = {"model": model, "width": width, "batch": batch, "steps": steps, "threads": threads}
    found: dict[tuple[Setting, str], list[dict[str, int]]] = {(setting, v.name): [] for setting, v in kinds}
    for done in range(rounds):
        for setting, variant in found:
            one = {"variant": variant, "precision": setting.precision, "memory_format": setting.memory_format}
            found[setting, variant].append(_in_a_process({**common, **one, "default_malloc": default_malloc}))
        if on_round is not None:
            on_round(done + 1, rounds)
    return {
        "benchmark": "training-memory",
        "machine": {**machine(threads), "freed_memory_kept": not default_malloc},
        "settings": {"model": model, "width": width, "batch": batch, "rounds": rounds, "steps": steps},
        "rows": [
            {
                "variant": variant,
                "precision": setting.precision,
                "memory_format": setting.memory_format,
                **{key: statistics.median(_column(of, key)) for key in KINDS},
                **{f"largest_{key}": max(_column(of, key)) for key in KINDS},
                **{key.replace("bytes", "ratio"): _ratio(of, found[setting, FLOOR], key) for key in KINDS},
            }
            for (setting, variant), of in found.items()
        ],
    }


def _column(found: list[dict[str, int]], key: str) -> list[int]:
    return [one[key] for one in found]


def _ratio(of: list[dict[str, int]], to: list[dict[str, int]], key: str) -> float:
    return statistics.median(_column(of, key)) / statistics.median(_column(to, key))


def _in_a_process(settings: dict[str, Any]) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(settings)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        reason = last.partition(": ")[2] or last  # without the name of the error
        raise OnebitError(f"{settings['variant']} in {settings['precision']} does not train: {reason}")
    return json.loads(lines[-1])


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    where, how = result["machine"], result["settings"]
    lines = [
        f"peak memory of training {how['model']}, width {how['width']:g}, batch {how['batch']}, above what the process "
        f"held before; median of {how['rounds']} processes of {how['steps']} steps",
        "twin: plain torch in the same precision and memory format",
        f"{where['cpu']}; torch {where['torch']}, {where['threads']} thread(s), freed memory "
        f"{'kept' if where['freed_memory_kept'] else 'given back'}",
        "",
        f"{'':<42}{'tensors MB':>12}{'× twin':>8}{'resident MB':>14}{'most':>9}{'× twin':>8}",
        *(
            f"{row['precision']}  {row['memory_format']:<15}{row['variant']:<21}"
            f"{row['tensor_bytes'] / 1e6:12.1f}{row['tensor_ratio']:8.3f}"
            f"{row['resident_bytes'] / 1e6:14.1f}{row['largest_resident_bytes'] / 1e6:9.1f}{row['resident_ratio']:8.3f}"
            for row in result["rows"]
        ),
    ]
    return "\n".join(lines)
