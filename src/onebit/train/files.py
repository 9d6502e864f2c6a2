"""What `fit` writes into a run folder while it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from onebit.common.files import read_regular, write_atomic
from onebit.data import DATASETS, Dataset
from onebit.errors import UsageError
from onebit.train.checkpoint import load_checkpoint, save_checkpoint
from onebit.train.history import MOST_RESULT, History
from onebit.train.ranks import Ranks
from onebit.train.weights import save_weights

PLACE_FILE = "data.json"
"""Of a run folder: where the data lay, if only `--data` finds them. It is no part of a weight file or a packed net."""


def remembered_place(folder: Path) -> Path | None:
    """Where the data of a run lay; None if it does not say so."""
    try:
        return Path(json.loads(read_regular(folder / PLACE_FILE, largest=MOST_RESULT))["directory"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class RunFiles:
    """metrics.jsonl, last.ckpt, best.safetensors and final.safetensors of one training; nothing without a folder.

    Args:
        folder: where they go; None writes nothing.
        facts: written into the weight files.
        ranks: the one that writes does; all of them call the same methods.
        held: what a checkpoint holds, the keyword arguments of `save_checkpoint` and `load_checkpoint`.
    """

    def __init__(
        self, folder: str | Path | None, *, facts: dict[str, Any] | None, ranks: Ranks, held: dict[str, Any]
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.facts, self.ranks, self.held = facts or {}, ranks, held

    @property
    def kept(self) -> Path | None:
        """The last checkpoint, if there is one."""
        path = None if self.folder is None else self.folder / "last.ckpt"
        return path if path is not None and path.exists() else None

    def resume(self) -> History:
        """The epochs done so far, with everything restored from the last checkpoint; none without one.

        Raises:
            UsageError: the machine of the first process has none, another one has.
        """
        seen = self.ranks.gather(self.kept)
        if seen[0] is None and any(seen):  # to start afresh would lose what is there
            raise UsageError(
                f"{self.folder} holds a checkpoint on another machine than that of the first process: "
                "train into a folder that all machines see"
            )
        return History() if seen[0] is None else load_checkpoint(seen[0], **self.held)

    def write_place(self, data: Dataset) -> None:
        """Write data.json, for data that are the user's own."""
        own = data.name not in DATASETS or DATASETS[data.name].classes is None
        if self.folder is not None and self.ranks.writes and own and data.directory:
            write_atomic(self.folder / PLACE_FILE, (json.dumps({"directory": data.directory}) + "\n").encode())

    def write_rows(self, history: History) -> None:
        """Write metrics.jsonl."""
        if self.folder is not None and self.ranks.writes:
            write_atomic(self.folder / "metrics.jsonl", history.to_jsonl().encode())

    def write_epoch(self, history: History) -> None:
        """Write last.ckpt and metrics.jsonl; all ranks go on when they are there."""
        if self.folder is not None:
            save_checkpoint(self.folder / "last.ckpt", history=history, **self.held)
            self.write_rows(history)
            self.ranks.wait()

    def write_weights(self, name: str, model: nn.Module, **facts: Any) -> None:
        """Write NAME.safetensors, with what is known of the training."""
        if self.folder is not None and self.ranks.writes:
            save_weights(self.folder / f"{name}.safetensors", model, {**self.facts, **facts})
