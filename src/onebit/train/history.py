"""What training reports: one `EpochLog` per epoch, a `History` of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onebit.errors import UsageError

WEIGHT_FILES = ("best.safetensors", "final.safetensors")
"""Of a run folder, in the order of preference: the reported model is the one that validation chose."""
STAGE_FOLDER = "stage1"
"""Of a run in two stages: the run folder of the first one, in its own."""
TABLE_FILE = "continual.json"
"""Of a folder of several tasks: what was reached on each."""
RUN_FILES = ("metrics.jsonl", "last.ckpt", *WEIGHT_FILES, "result.json", STAGE_FOLDER, TABLE_FILE)


def task_folders(folder: Path) -> list[Path]:
    """The run folders of the tasks that a folder of several tasks holds, finished or not; none of another folder."""
    if not (folder / "recipe.yaml").exists():
        return []
    return sorted(path.parent for path in folder.glob("*/task-*/recipe.yaml"))


def holds_run(folder: Path) -> bool:
    """Whether another training would overwrite something there."""
    return any((folder / name).exists() for name in RUN_FILES) or bool(task_folders(folder))


def refuse_used(folder: Path, *, resume: bool) -> bool:
    """Whether the folder holds a run.

    Raises:
        UsageError: it does, and `resume` was not asked for.
    """
    used = holds_run(folder)
    if used and not resume:
        raise in_use(folder)
    return used


def in_use(folder: Path) -> UsageError:
    """What to say of a folder that holds a run."""
    return UsageError(
        f"{folder} holds a run already: go on with --resume {folder}, replace it with --overwrite, "
        "or choose another --out"
    )


@dataclass(frozen=True)
class EpochLog:
    """One line of metrics.jsonl. Errors and ratios are fractions 0–1, losses means over samples.

    epoch: 1, 2, …; step: optimizer steps done so far.
    train_*: over the batches of the epoch, in training mode with the weights of training.
    validation_*: None without a validation split; `validation_weights` is the test mode, "binary" or "real".
    lr: learning rate of latents before their scale after the epoch; of the real parameters where latents have none.
    seconds: training and validation of this epoch; images_per_second: training alone.
    flip_ratio: share of binary weights that changed sign since the last epoch.
    saturation: share of latents at their bound.
    layers: the health of each layer, see `onebit.train.health.LayerHealth`; empty in runs of earlier versions.
    """

    epoch: int
    epochs: int
    step: int
    train_loss: float
    train_error: float
    validation_loss: float | None
    validation_error: float | None
    validation_weights: str
    lr: float
    seconds: float
    images_per_second: float
    flip_ratio: float
    saturation: float
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    validation_mean_iou: float | None = None

    def __str__(self) -> str:
        text = f"epoch {self.epoch}/{self.epochs}  loss {self.train_loss:.4f}  error {100 * self.train_error:.2f} %"
        if self.validation_error is not None:
            text += f"  validation {100 * self.validation_error:.2f} % ({self.validation_weights} weights)"
        if self.validation_mean_iou is not None:
            text += f"  mean IoU {self.validation_mean_iou:.4f}"
        text += f"  lr {self.lr:.2e}  flips {100 * self.flip_ratio:.2f} %  saturated {100 * self.saturation:.1f} %"
        return text + f"  {self.seconds:.1f} s"


@dataclass
class History:
    """All epochs of a training, and the epoch that validation chose (the last one without a validation split)."""

    rows: list[EpochLog] = field(default_factory=list)

    @property
    def best(self) -> EpochLog:
        """The first epoch with the lowest validation error, of masks the highest mean IoU; the last one if none has."""
        masked = [row for row in self.rows if row.validation_mean_iou is not None]
        if masked:
            return max(masked, key=lambda row: row.validation_mean_iou)  # type: ignore[arg-type, return-value]
        validated = [row for row in self.rows if row.validation_error is not None]
        return min(validated, key=lambda row: row.validation_error) if validated else self.rows[-1]  # type: ignore[arg-type, return-value]

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    def __iter__(self) -> Iterator[EpochLog]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_jsonl(self) -> str:
        return "".join(json.dumps(asdict(row)) + "\n" for row in self.rows)

    @classmethod
    def from_dicts(cls, rows: Iterable[dict[str, Any]]) -> History:
        return cls([EpochLog(**row) for row in rows])
