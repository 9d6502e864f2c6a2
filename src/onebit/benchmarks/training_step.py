"""The training step of BinaryConnect's MNIST net, 784–3×2048–10, against the same net in plain torch with fused Adam.

All variants take turns in one process, a few steps each, and every ratio is formed within a round: what else the
machine does meets all of them alike. The median of these ratios is the figure; beside it stand the ratio of the fastest
rounds, and that of CPU time, which leaves out the time in which other processes had the core.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import NotBinaryError, UsageError
from onebit.layers import binary_layers
from onebit.memory import keep_freed_memory
from onebit.models import create_model
from onebit.optim import clip_latents_, compile_update_, latent_groups
from onebit.precision import autocast, multiplies_bf16

WIDTHS = (784, 2048, 2048, 2048, 10)
FLOOR = "plain torch"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Variant:
    """A net to time; `weights` and `inputs` are quantizers, None for real."""

    name: str
    weights: str | None = None
    inputs: str | None = None
    compiled: bool = False


EAGER = (
    Variant(FLOOR),
    Variant("sign", "sign"),
    Variant("stochastic", "stochastic"),
    Variant("ste_sign", "ste_sign"),
    Variant("bnn", "ste_sign", "ste_sign"),
)
COMPILED = tuple(Variant(f"{v.name}, compiled", v.weights, v.inputs, True) for v in EAGER[1:])


@dataclass
class _Run:
    """A variant in one precision, and the seconds per step of each round."""

    variant: Variant
    precision: str
    net: nn.Module
    optimizer: torch.optim.Optimizer
    first_seconds: float = 0.0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def step(self, x: Tensor, y: Tensor) -> None:
        with autocast(self.precision, CPU):
            logits = self.net(x)
        F.cross_entropy(logits.float(), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def time(self, x: Tensor, y: Tensor, steps: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step(x, y)
        self.wall.append((time.perf_counter() - wall) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)


def plain_net(widths: Sequence[int]) -> nn.Sequential:
    """The floor: linear, BatchNorm, ReLU of torch."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _build(variant: Variant, precision: str, widths: Sequence[int]) -> _Run:
    if variant.weights is None:
        net = plain_net(widths)
        return _Run(variant, precision, net.train(), torch.optim.Adam(net.parameters(), lr=1e-3, fused=True))
    model = create_model("mlp", widths=widths, weight_quantizer=variant.weights, input_quantizer=variant.inputs)
    net = nn.Sequential(*list(model.children())[2:])  # coding and flattening of images are not in the floor either
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(net, lr=1e-3), fused=True))
    if variant.compiled:
        compile_update_(optimizer, net, precision=precision)
    return _Run(variant, precision, net.train(), optimizer)


def check(net: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], None]) -> None:
    """Take steps so long that latents reach their clip, and look at what the net multiplies with.

    Raises:
        NotBinaryError: a weight of a forward pass is not ±1 or not that of its latent, or a latent is beyond its clip.
    """
    used: dict[nn.Module, Tensor] = {}

    def look(quantizer: nn.Module, inputs: tuple[Tensor], weight: Tensor) -> None:
        used[quantizer] = weight.detach().float().clone()  # a compiled update writes over it

    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    layers = list(binary_layers(net))
    latents = [layer.weight.detach().clone() for _, layer in layers]
    hooks = [layer.weight_quantizer.register_forward_hook(look) for _, layer in layers]  # type: ignore[union-attr]
    step()
    for hook in hooks:
        hook.remove()
    for (name, layer), latent in zip(layers, latents, strict=True):
        quantizer = layer.weight_quantizer
        assert quantizer is not None
        weight, signs = used[quantizer], quantizer.decompose(latent).signs
        certain = (latent.abs() == 1) if quantizer.random else torch.ones_like(latent, dtype=torch.bool)
        wrong = int(((weight.abs() != 1) | ((weight != signs) & certain)).sum())
        if wrong:
            raise NotBinaryError(f"layer {name}: {wrong:,} weights of a training step are not what they should be, ±1")
        largest = float(latent.abs().max())
        if largest != 1:
            raise NotBinaryError(f"layer {name}: the largest latent after a long step is {largest}, not its clip 1")


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return {"cpu": name, "cores": os.cpu_count(), "torch": torch.__version__, "threads": threads}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (15)")
    parser.add_argument("--steps", type=int, default=3, help="steps of each net in a round (3)")
    parser.add_argument("--batch", type=int, default=100, help="images per step (100)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--compile", action="store_true", help="with compiled updates as well (a minute to compile)")
    parser.add_argument(
        "--default-malloc", action="store_true", help="leave malloc as it is (see onebit.memory); for comparison"
    )


def measure(
    *,
    rounds: int = 15,
    steps: int = 3,
    batch: int = 100,
    threads: int = 1,
    compile: bool = False,
    default_malloc: bool = False,
    widths: Sequence[int] = WIDTHS,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check all variants, then time them in turn.

    Args:
        on_round: called with (rounds done, rounds).

    Returns:
        machine, settings, and rows of variant, precision, ms (median, fastest, CPU), ratio to the float32 floor (median
        over rounds, of the fastest rounds, of CPU time), ratio to the floor in the same precision, seconds of the first
        step.

    Raises:
        UsageError: numbers that are not positive.
        NotBinaryError: a net that is not what it claims to be.
    """
    if min(rounds, steps, threads) < 1 or batch < 2:
        raise UsageError("rounds, steps and threads must be 1 or more, batch 2 or more (BatchNorm)")
    kept = not default_malloc and keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, y = torch.rand(batch, widths[0]) * 2 - 1, torch.randint(0, widths[-1], (batch,))
    precisions = ("fp32", "bf16") if multiplies_bf16(CPU) else ("fp32",)
    variants = EAGER + COMPILED if compile else EAGER
    runs = [_build(variant, precision, widths) for precision in precisions for variant in variants]
    for run in runs:
        started = time.perf_counter()
        run.step(x, y)
        run.first_seconds = time.perf_counter() - started
        check(run.net, run.optimizer, lambda run=run: run.step(x, y))  # type: ignore[misc]
    for done in range(rounds):
        for run in runs:
            run.time(x, y, steps)
        if on_round is not None:
            on_round(done + 1, rounds)
    floors = {run.precision: run for run in runs if run.variant.name == FLOOR}
    return {
        "benchmark": "training-step",
        "machine": {**machine(threads), "freed_memory_kept": kept},
        "settings": {"widths": list(widths), "batch": batch, "rounds": rounds, "steps": steps},
        "rows": [_row(run, floors["fp32"], floors[run.precision]) for run in runs],
    }


def _ratio(of: list[float], to: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def _row(run: _Run, floor: _Run, same: _Run) -> dict[str, Any]:
    return {
        "variant": run.variant.name,
        "precision": run.precision,
        "ms": 1e3 * statistics.median(run.wall),
        "fastest_ms": 1e3 * min(run.wall),
        "cpu_ms": 1e3 * statistics.median(run.cpu),
        "ratio": _ratio(run.wall, floor.wall),
        "fastest_ratio": min(run.wall) / min(floor.wall),
        "cpu_ratio": _ratio(run.cpu, floor.cpu),
        "same_precision_ratio": _ratio(run.wall, same.wall),
        "same_precision_cpu_ratio": _ratio(run.cpu, same.cpu),
        "first_step_seconds": run.first_seconds,
    }


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    where, how = result["machine"], result["settings"]
    head = ("", "ms", "× fp32 floor", "fastest", "CPU", "× same precision", "CPU", "first step")
    widths = (30, 8, 14, 9, 8, 18, 8, 12)
    table = [
        (
            f"{row['precision']}  {row['variant']}",
            f"{row['ms']:.1f}",
            *(f"{row[key]:.3f}" for key in ("ratio", "fastest_ratio", "cpu_ratio")),
            *(f"{row[key]:.3f}" for key in ("same_precision_ratio", "same_precision_cpu_ratio")),
            f"{row['first_step_seconds']:.1f} s",
        )
        for row in result["rows"]
    ]
    lines = [
        f"training step of {'–'.join(map(str, how['widths']))}, batch {how['batch']}; "
        f"{how['rounds']} rounds of {how['steps']} steps",
        f"{where['cpu']}, {where['cores']} cores; torch {where['torch']}, {where['threads']} thread(s), "
        f"freed memory {'kept' if where['freed_memory_kept'] else 'given back'}",
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
