"""What a training prints on a terminal or in a notebook: the net, a progress bar, and a line per epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from onebit.common.progress import progress, shows_progress
from onebit.evaluation.counts import layer_sizes, model_size, packed_bytes
from onebit.layers import BinaryLayer
from onebit.train.history import EpochLines, EpochLog
from onebit.train.options import Monitor

OnStep = Callable[[int, int], None]
OnEpoch = Callable[[EpochLog], None]


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
def printed(
    model: nn.Module, monitor: Monitor, *, writes: bool = True
) -> Iterator[tuple[OnStep | None, OnEpoch | None]]:
    """The context in which a training prints its progress, see `shows_progress`; nothing unless `writes`.

    Yields:
        What to call after each step and each epoch: it prints, and calls `on_step` or `on_epoch`.
    """
    on_step, on_epoch = monitor.on_step, monitor.on_epoch
    if not shows_progress(monitor.verbose if writes else False, on_step, on_epoch):
        yield on_step, on_epoch
        return
    lines = EpochLines()
    with progress(type(model).__name__, "steps") as bar:
        for line in net_lines(model):
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

        yield step, epoch
