"""What a training prints on a terminal or in a notebook: the net, how it packs, a progress bar, a line per epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.progress import progress, shows_progress
from onebit.evaluation.counts import model_size
from onebit.evaluation.loaders import kept_globals
from onebit.fold.check import check
from onebit.layers import binary_layers, binary_parametrizations
from onebit.train.history import EpochLines, EpochLog
from onebit.train.job import Job


def net_lines(model: nn.Module) -> list[str]:
    """A net in two lines: layers with weights, parameters, and bytes when packed."""
    binary = [layer for _, layer in binary_layers(model)]
    others: list[Any] = [
        layer for layer in model.modules() if layer not in binary and not binary_parametrizations(layer)
    ]
    others = [
        layer for layer in others if isinstance(getattr(layer, "weight", None), Tensor) and layer.weight.dim() > 1
    ]
    signs, real, size = model_size(model)
    return [
        f"{type(model).__name__}: {len(binary) + len(others)} layers ({len(binary)} binary), "
        f"{signs:,} binary weights, {real:,} real parameters",
        f"{size:,} bytes when packed, {4 * (signs + real):,} as float32",
    ]


def packing_lines(model: nn.Module, inputs: Any = None) -> list[str]:
    """The line of `onebit.check`; none for a net of ours that is real on purpose.

    Random numbers and the model stay as they are.

    Args:
        inputs: a batch, for a model without `input_shape`.
    """
    ours = hasattr(model, "input_shape") and (inputs is None or getattr(inputs, "dtype", None) == torch.uint8)
    if ours and not any(True for _ in binary_layers(model)):
        return []
    with torch.random.fork_rng(devices=[]), kept_globals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the first step warns of, it warns of once
        several = {} if isinstance(inputs, (tuple, list)) else inputs
        return [check(model, None if ours else several).line]


@contextmanager
def printed(job: Job) -> Iterator[None]:
    """The context in which a training prints its progress, see `shows_progress`: its callbacks then print as well."""
    on_step, on_epoch = job.on_step, job.on_epoch
    if not shows_progress(job.verbose if job.ranks.writes else False, on_step, on_epoch):
        yield
        return
    lines = EpochLines()
    with progress(type(job.model).__name__, "steps", on_step) as bar:
        for line in [*net_lines(job.model), *packing_lines(job.model, job.example)]:
            bar.print(line)

        def epoch(row: EpochLog) -> None:
            for line in lines.of(row):
                bar.print(line)
            if on_epoch is not None:
                on_epoch(row)

        job.on_step, job.on_epoch = bar.update, epoch
        yield
