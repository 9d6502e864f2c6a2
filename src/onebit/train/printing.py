"""What a training prints on a terminal or in a notebook: the net, a progress bar, and a line per epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from onebit.common.progress import progress, shows_progress
from onebit.evaluation.counts import layer_sizes, model_size, packed_bytes
from onebit.layers import binary_layers, binary_parametrizations
from onebit.train.history import EpochLines, EpochLog
from onebit.train.job import Job


def net_lines(model: nn.Module) -> list[str]:
    """A net in two lines: layers with weights, parameters, and bytes when packed."""
    binary = [layer for _, layer in binary_layers(model)]
    others: list[Any] = [
        layer for layer in model.modules() if layer not in binary and not binary_parametrizations(layer)
    ]
    others = [layer for layer in others if getattr(layer, "weight", None) is not None and layer.weight.dim() > 1]
    signs, real = model_size(model)
    size = packed_bytes(layer_sizes(model))
    return [
        f"{type(model).__name__}: {len(binary) + len(others)} layers ({len(binary)} binary), "
        f"{signs:,} binary weights, {real:,} real parameters",
        f"{size:,} bytes when packed, {4 * (signs + real):,} as float32",
    ]


@contextmanager
def printed(job: Job) -> Iterator[None]:
    """The context in which a training prints its progress, see `shows_progress`: `job.monitor` then prints as well."""
    on_step, on_epoch = job.monitor.on_step, job.monitor.on_epoch
    if not shows_progress(job.monitor.verbose if job.ranks.writes else False, on_step, on_epoch):
        yield
        return
    lines = EpochLines()
    with progress(type(job.model).__name__, "steps") as bar:
        for line in net_lines(job.model):
            bar.print(line)

        def step(done: int, total: int) -> None:
            bar.update(done, total)
            if on_step is not None:
                on_step(done, total)

        def epoch(row: EpochLog) -> None:
            for line in lines.of(row):
                bar.print(line)
            if on_epoch is not None:
                on_epoch(row)

        job.monitor = replace(job.monitor, on_step=step, on_epoch=epoch)
        yield
