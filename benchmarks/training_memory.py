"""Peak memory of training a binary net against the same net in plain torch.

Each variant trains a few steps in its own process. Two figures are measured: the peak size of all tensors from building
the net to the last step, which is exactly reproducible; and the peak resident memory of the process minus its memory
after importing torch, which includes libraries and unused memory in malloc, and varies by 10 %.
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

import onebit
from benchmarks.shared import ROOT, add_rounds, describe_machine, machine, set_up_process
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

KINDS = ("tensor_bytes", "resident_bytes")
STATUS = Path("/proc/self/status")
CHILD = (
    "import json, sys; from benchmarks.training_memory import train_here; "
    "print(json.dumps(train_here(**json.loads(sys.argv[1]))))"
)


def resident(field: str) -> int:
    """Resident bytes of this process: now ("VmRSS"), or the peak since `forget_peak` ("VmHWM").

    Raises:
        UsageError: the system is not Linux.
    """
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise onebit.errors.UsageError(f"training-memory reads {STATUS}, which only Linux has") from error
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Reset "VmHWM", if the system allows it."""
    with suppress(OSError):
        STATUS.with_name("clear_refs").write_text("5", encoding="ascii")


def tensor_peak(train: Callable[[], object]) -> int:
    """Peak size in bytes of the tensors on the CPU while `train` runs, above the size before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    # a stable sort keeps the order of events with the same time stamp
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
    """Train in this process, once to measure the process and once to measure its tensors.

    Returns:
        increase of peak resident memory, and peak size of the tensors, in bytes.
    """
    found = next(v for v in (*EAGER, *METHODS, *COMPILED.values()) if v.name == variant)
    set_up_process(threads, default_malloc=default_malloc)
    # the first optimizer of a process loads shared code: this memory is not that of the net
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
    add_rounds(parser, 5, "processes for each net")
    parser.add_argument("--steps", type=int, default=3, help="steps in each process (3)")
    parser.add_argument("--compile", action="store_true", help="also with compiled updates (takes minutes to compile)")


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
    """Train each variant in its own processes, in turn.

    Args:
        model, width: see `benchmarks.variants.build`.
        variants: names of the binary variants; all for None.
        on_round: called with (rounds done, rounds).

    Returns:
        machine, settings, and rows of variant, precision, memory format, peak bytes of tensors and of resident memory
        (median and largest), and the ratios of both to plain torch in the same precision and memory format.

    Raises:
        UsageError: numbers that are not positive, an unknown model or variant, or a system other than Linux.
        OnebitError: a process that fails.
    """
    if min(rounds, steps, threads) < 1:
        raise onebit.errors.UsageError("rounds, steps and threads must be 1 or more")
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
    command = [sys.executable, "-c", CHILD, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        reason = last.partition(": ")[2] or last  # without the name of the error
        raise onebit.errors.OnebitError(f"{settings['variant']} in {settings['precision']} does not train: {reason}")
    return json.loads(lines[-1])


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    where, how = result["machine"], result["settings"]
    lines = [
        f"peak memory of training {how['model']}, width {how['width']:g}, batch {how['batch']}, above the memory of "
        f"the process before; median of {how['rounds']} processes of {how['steps']} steps",
        "twin: plain torch in the same precision and memory format",
        describe_machine(where),
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
