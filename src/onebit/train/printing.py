"""What a training prints on a terminal or in a notebook: the net, a progress bar, and a line per epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from onebit.common.progress import progress, shows_progress
from onebit.evaluation.counts import layer_sizes, model_size, packed_bytes
from onebit.layers import BinaryLayer
from onebit.train.history import EpochLines, EpochLog
from onebit.train.job import Job


def net_lines(model: nn.Module) -> list[str]:
    """A net in two lines: layers with weights, parameters, and bytes when packed."""
    weighted = [layer for layer in model.modules() if getattr(layer, "weight", None) is not None]
    layers = [layer for layer in weighted if layer.weight.dim() > 1]  # type: ignore[operator]
    binary = [layer for layer in layers if isinstance(layer, BinaryLayer) and layer.weight_quantizer is not None]
    signs, real = model_size(model)
    size = packed_bytes(layer_sizes(model))
    return [
        f"{type(model).__name__}: {len(layers)} layers ({len(binary)} binary), "
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
