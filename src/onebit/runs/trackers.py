"""Experiment trackers: TensorBoard, and Weights & Biases."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onebit.common.files import write_atomic
from onebit.recipe import Recipe
from onebit.train.history import EpochLog
from onebit.train.ranks import ALONE, Ranks


def numbers(row: EpochLog) -> dict[str, float]:
    """All measurements of an epoch by name: `train_loss`, …, `layers/linear1/flip_ratio`."""
    found = {k: v for k, v in asdict(row).items() if isinstance(v, (int, float)) and k not in ("epoch", "epochs")}
    for layer, measured in row.layers.items():
        found |= {f"layers/{layer}/{name}": value for name, value in measured.items()}
    return found


def outcome(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of each test score: `test/binary/accuracy`, …"""
    for mode, score in result.get("test", {}).items():
        yield from ((f"test/{mode}/{name}", score[name]) for name in ("accuracy", "loss", "entropy", "ece"))


class TensorBoard:
    """Event files in `folder/tensorboard`, which a resumed run continues; `tensorboard --logdir RUNS` shows them."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open, self._folder, self._recipe = SummaryWriter, folder / "tensorboard", recipe
        self._writer: Any = None

    def epoch(self, row: EpochLog) -> None:
        for name, value in numbers(row).items():
            self._at(row.epoch).add_scalar(name, value, row.epoch)
        self._writer.flush()

    def end(self, result: Mapping[str, Any] = {}) -> None:
        for name, value in outcome(result):
            after = math.ceil(result["epochs"]) + 1  # a run that was finished before keeps its epochs
            self._at(after).add_scalar(name, value, result["chosen_epoch"])
        if self._writer is not None:
            self._writer.close()

    def _at(self, epoch: int) -> Any:
        """The writer; opening it removes entries of an interrupted run from this epoch on."""
        if self._writer is None:
            self._writer = self._open(str(self._folder), purge_step=epoch if epoch > 1 else None)
            self._writer.add_text("recipe", f"```\n{self._recipe.to_yaml()}```")
        return self._writer


class WeightsAndBiases:
    """A run of the project `onebit` (or WANDB_PROJECT), which a resumed training continues.

    Its id is stored in `folder/wandb-id`, its files in `folder/wandb`; WANDB_MODE=offline writes nothing else.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        import wandb

        known = folder / "wandb-id"
        name = known.read_text(encoding="utf-8").strip() if known.is_file() else secrets.token_hex(4)
        mode: Any = os.environ.get("WANDB_MODE")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "onebit"),
            name=recipe.name,
            mode=mode,  # wandb itself reads it once per process
            id=name,
            resume="allow" if known.exists() else None,
            dir=str(folder),
            config=recipe.settings(),
            settings=wandb.Settings(console="off", silent=True),
        )
        write_atomic(known, f"{name}\n".encode())

    def epoch(self, row: EpochLog) -> None:
        self._run.log(numbers(row), step=row.epoch)

    def end(self, result: Mapping[str, Any] = {}) -> None:
        self._run.summary.update(dict(outcome(result)))
        self._run.finish(exit_code=int(not result))


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
"""Called after each epoch, and at the `end` with the content of result.json, or without it if the training failed."""


@contextmanager
def tracking(names: Sequence[str], recipe: Recipe, folder: Path, *, ranks: Ranks = ALONE) -> Iterator[list[Any]]:
    """The named trackers of a run on the rank that writes files; an error or Ctrl-C ends them."""
    opened: list[Any] = []
    ranks.first(lambda: opened.extend(TRACKERS[name](recipe, folder) for name in names))
    try:
        yield opened
    except BaseException:  # Ctrl-C too
        for tracker in opened:
            tracker.end()
        raise
