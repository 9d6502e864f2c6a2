"""Arguments of `fit` that belong together: one object per group."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit.common.arguments import check_kind
from onebit.common.tables import did_you_mean
from onebit.errors import WrongTypeError
from onebit.train.batch_log import BatchWatch
from onebit.train.history import EpochLog
from onebit.train.ranks import ALONE, Ranks
from onebit.train.step import StepSettings


@dataclass(frozen=True)
class Execution:
    """How a model runs while it trains.

    Args:
        precision: "auto", "bf16" or "fp32".
        memory_format: "channels_last", "contiguous", or "auto": channels_last for a net with convolutions.
        compile: run the model through torch.compile.
        sync_norm: compute BatchNorm statistics in training over all ranks, not on each rank alone. Not for models with
            activation checkpointing, which would repeat a part with the statistics of its rank.
        ranks: which of several processes this is, see `onebit.train.ranks`.
    """

    precision: str = "auto"
    memory_format: str = "auto"
    compile: bool = False
    sync_norm: bool = False
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        check_kind("ranks", self.ranks, Ranks, "onebit.train.ranks.Ranks")


@dataclass(frozen=True)
class Output:
    """The files of a training.

    Args:
        folder: gets metrics.jsonl, last.ckpt, best.safetensors and final.safetensors; None writes nothing.
        resume: continue from `folder/last.ckpt` if it exists.
        facts: stored in the weight files next to epoch and validation error.
    """

    folder: str | Path | None = None
    resume: bool = False
    facts: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_kind("folder", self.folder, (str, os.PathLike, type(None)), "a path, or None")


@dataclass(frozen=True)
class Monitor:
    """What follows a training.

    Args:
        on_step: called with (steps done, total steps); on_epoch: called with each `EpochLog`.
        on_restored: called with the `EpochLog` of the last checkpoint when a training goes on from there.
        batch_watch: reads the batches of each epoch; top-5 errors are then counted as well.
        verbose: whether to print the net, the line of `onebit.check`, a progress bar and a line per epoch; by default
            on a terminal and in a notebook, unless `on_step` or `on_epoch` is given.
    """

    on_step: Callable[[int, int], None] | None = None
    on_epoch: Callable[[EpochLog], None] | None = None
    batch_watch: BatchWatch | None = None
    verbose: bool | None = None
    on_restored: Callable[[EpochLog], None] | None = None

    def __post_init__(self) -> None:
        for name in ("on_step", "on_epoch", "on_restored"):
            check_kind(name, getattr(self, name), (Callable, type(None)), "a function, or None")


GROUPS: dict[str, type] = {
    "step_settings": StepSettings,
    "execution": Execution,
    "output": Output,
    "monitor": Monitor,
}


def group_options(given: Mapping[str, Any], flat: Mapping[str, Any], *, own: Iterable[str]) -> list[Any]:
    """The groups in the order of GROUPS, with the fields that `flat` names replaced.

    Args:
        given: group -> object; None for the defaults.
        flat: field of a group -> value.
        own: other keywords of `fit`, for the error message.

    Raises:
        WrongTypeError: a keyword that no group has, or a group of another type.
    """
    homes = {field.name: name for name, kind in GROUPS.items() for field in dataclasses.fields(kind)}
    for keyword in flat:
        if keyword not in homes:
            hint = did_you_mean(keyword, [*own, *homes])
            raise WrongTypeError(f"fit got an unexpected keyword argument {keyword!r}{hint}")
    grouped = []
    for name, kind in GROUPS.items():
        group = kind() if given[name] is None else given[name]
        check_kind(name, group, kind, f"{kind.__module__}.{kind.__name__}")
        grouped.append(dataclasses.replace(group, **{key: flat[key] for key in flat if homes[key] == name}))
    return grouped
