"""The record of a run: one `EpochLog` per epoch, their `History`, and the names of the files in a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

from onebit.common.fields import Bound, MismatchError, field_types, read_exactly, within
from onebit.common.files import sha256_of
from onebit.common.record import Whole
from onebit.common.text import NetSize, table
from onebit.errors import UsageError

WEIGHT_FILES = ("best.safetensors", "final.safetensors")
"""The preferred one first: results are those of the net that validation selected."""
STAGE_FOLDER = "stage1"
"""The run folder of the first stage, inside that of a run in two stages."""
DATA_FILE = "data.json"
"""Digests and folder of the data of a run, if only `--data` finds them."""
TABLE_FILE = "continual.json"
"""The scores, in a folder of several tasks."""
RESULT_FILE = "result.json"
FIT_FILES = ("metrics.jsonl", "last.ckpt", *WEIGHT_FILES)
"""The files that `fit` writes."""
RUN_FILES = (*FIT_FILES, RESULT_FILE, *(f"{STAGE_FOLDER}/{name}" for name in FIT_FILES), TABLE_FILE)
MAX_RESULT = 16_000_000
"""Bytes of a result.json, continual.json or seeds.json."""
MAX_METRICS = 256_000_000
"""Bytes of a metrics.jsonl."""
PRINTED_EPOCHS = 10
"""A printed `History` of more epochs is shortened."""
Number = Annotated[float, Bound("a number", lambda value: isinstance(value, float) or abs(value) < 2**63)]
Fraction = Annotated[float, within("[0, 1]")]


def reported_weights(folder: Path, digest: object) -> tuple[Path | None, bool]:
    """(the weight file that the result of a run is about, or None; whether it has changed since).

    Args:
        digest: of the weights, from the result; None if unknown.
    """
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    return weights, weights is not None and digest not in (None, sha256_of(weights))


def task_folders(folder: Path) -> list[Path]:
    """The run folders in a folder of several tasks, finished or not."""
    if not (folder / "recipe.yaml").exists():
        return []
    return sorted(path.parent for path in folder.glob("*/task-*/recipe.yaml"))


def holds_run(folder: Path, files: Sequence[str] = RUN_FILES) -> bool:
    """Whether another run would overwrite something in a folder; metrics.jsonl is empty until the first checkpoint."""
    found = (folder / name for name in files)
    return any(path.exists() and path.stat().st_size for path in found) or any(map(holds_run, task_folders(folder)))


def refuse_used(folder: Path, *, resume: bool, files: Sequence[str] = RUN_FILES) -> bool:
    """Whether the folder holds a run; UsageError if it does, unless `resume`."""
    if (used := holds_run(folder, files)) and not resume:
        raise UsageError(
            f"{folder} holds a run already: continue it with --resume {folder}, replace it with --overwrite, or "
            "choose another --out; in Python: resume=True"
        )
    return used


@dataclass(frozen=True)
class EpochLog:
    """One line of metrics.jsonl. Errors and ratios are fractions 0–1, losses means over samples.

    epoch: 1, 2, …; step: optimizer steps so far.
    train_*: means over the batches of the epoch, in training mode, with the weights of each step.
    validation_*: None without a validation split; `validation_weights` is the test mode, "binary" or "real".
    lr: learning rate of latents after the epoch, before their scale; without latents, of the real parameters.
    seconds: training and validation; images_per_second, tokens_per_second: training only; tokens of language models.
    flip_ratio: share of binary weights that changed sign since the last epoch.
    saturation: share of latents at their bound.
    layers: the health of each layer, see `onebit.evaluation.health.LayerHealth`.
    best: lowest validation error so far; for segmentation the highest mean IoU; without classes the lowest validation
        loss; None without a validation split.
    train_metrics, validation_metrics: name -> value, see `onebit.evaluation.metrics`.
    small: whether images grow later in the run.

    Errors are None without classes.
    """

    epoch: Annotated[int, within("[0, 1e12]")]
    epochs: Whole
    step: Whole
    train_loss: Number
    train_error: Fraction | None
    validation_loss: Number | None
    validation_error: Fraction | None
    validation_weights: str
    lr: Number
    seconds: Annotated[float, within("[0, 1e12]")]
    images_per_second: Number
    flip_ratio: Number
    saturation: Number
    layers: dict[str, dict[str, Fraction]] = field(default_factory=dict)
    validation_mean_iou: Fraction | None = None
    best: Number | None = None
    train_metrics: dict[str, Number] = field(default_factory=dict)
    validation_metrics: dict[str, Number] = field(default_factory=dict)
    small: bool = False
    tokens_per_second: Number | None = None

    @classmethod
    def from_dict(cls, values: Any) -> EpochLog:
        """Read an epoch; unknown fields are left out, wrong or missing ones raise ValueError."""
        kinds = field_types(cls)  # type: ignore[arg-type]  # a class is hashable
        try:
            row = cls(**{name: read_exactly(value, kinds[name]) for name, value in values.items() if name in kinds})
        except (MismatchError, TypeError, AttributeError) as error:
            raise ValueError(f"the row of an epoch has a wrong field: {error}") from None
        return row

    @property
    def figure(self) -> float:
        """The value of `score`, the lower the better: of mean IoU its distance from 1."""
        name, value = self.score
        return 1 - value if name == "mean IoU" else value

    @property
    def score(self) -> tuple[str, float]:
        """(what selects the best epoch, its value); NaN without validation."""
        if self.validation_mean_iou is not None:
            return "mean IoU", self.validation_mean_iou
        if self.validation_error is not None:
            return "validation error", self.validation_error
        scored = self.train_error is None and self.validation_loss is not None
        return "validation loss", self.validation_loss if scored else math.nan  # type: ignore[return-value]

    def __str__(self) -> str:
        cells = "".join(f"{name} {_cell(name, self)}  " for name in _columns([self], *HEADINGS))
        return f"epoch {self.epoch}/{self.epochs}  {cells}lr {self.lr:.2e}  {self.seconds:.1f} s"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def _score(row: EpochLog, value: float | None) -> str:
    """A value of `EpochLog.score`."""
    return _percent(value) if row.score[0] == "validation error" else _number(value)


CELLS: dict[str, Callable[[EpochLog], str]] = {
    "loss": lambda row: _number(row.train_loss),
    "train error": lambda row: _percent(row.train_error),
    "validation error": lambda row: _percent(row.validation_error),
    "validation loss": lambda row: _number(row.validation_loss if row.train_error is None else None),
    "mean IoU": lambda row: _number(row.validation_mean_iou),
    "best": lambda row: _score(row, row.best),
    "flips": lambda row: _percent(row.flip_ratio),
    "saturated": lambda row: f"{100 * row.saturation:.1f} %" if row.validation_mean_iou is None else "-",
    "seconds": lambda row: f"{row.seconds:.1f}",
    "tokens/s": lambda row: "-" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
}
"""Heading of a column -> its cell. Metrics have columns of their names."""
HEADINGS = ("loss", "train error", "validation error", "validation loss", "mean IoU", "flips", "saturated")
MAX_METRIC_COLUMNS = 2
"""Most metrics in a table of 80 characters."""


def _cell(name: str, row: EpochLog) -> str:
    if name in CELLS:
        return CELLS[name](row)
    metrics = row.validation_metrics if row.validation_loss is not None else row.train_metrics
    return _number(metrics.get(name))


def _columns(rows: Sequence[EpochLog], *names: str) -> list[str]:
    """The columns that are not empty; metrics come last."""
    known = [name for name in names if any(_cell(name, row) != "-" for row in rows)]
    metrics = [name for row in rows for name in row.validation_metrics or row.train_metrics if name not in CELLS]
    return [*known, *list(dict.fromkeys(metrics))[:MAX_METRIC_COLUMNS]]


def epoch_lines(rows: Sequence[EpochLog]) -> list[str]:
    """The lines of the last epoch in a progress table of at most 80 characters; the first epoch has the headings."""
    row = rows[-1]
    alike = [seen.seconds for seen in rows if row.small or not seen.small]
    left = time_left(sum(alike) / len(alike) * (row.epochs - row.epoch))
    shown = "loss", "train error", "validation error", "validation loss", "mean IoU", "best", "tokens/s"
    names = _columns([row], *shown)
    cells = {name: _cell(name, row) for name in names} | {"left": f"> {left}" if row.small else left}
    epoch = f"{row.epoch}/{row.epochs}".rjust(2 * len(str(row.epochs)) + 1)
    lines = table([["epoch", *cells], [epoch, *cells.values()]], right=range(len(cells) + 1), least=8).split("\n")
    return lines[-1:] if len(rows) > 1 else lines


def time_left(seconds: float) -> str:
    """A time as `42 s`, `12 min` or `3.1 h`."""
    if seconds < 300:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


@dataclass(repr=False)
class History:
    """All epochs of a run, and the best one, which validation selects (without validation the last one).

    threads: of torch in the last epoch; precision: of training and validation; size: of the net. None if unknown.
    """

    rows: list[EpochLog] = field(default_factory=list)
    threads: int | None = field(default=None, compare=False, kw_only=True)
    precision: str | None = field(default=None, compare=False, kw_only=True)
    size: NetSize | None = field(default=None, compare=False, kw_only=True)

    @property
    def best(self) -> EpochLog:
        """The first epoch with the best `score`; the last epoch if no score is a number."""
        scored = (row for row in self.rows if not math.isnan(row.figure))
        return min(scored, key=attrgetter("figure"), default=self.rows[-1])

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(self.outline)})"

    def __str__(self) -> str:
        """A table of at most 80 characters: the first, the best and the last epochs, and the `outline`."""
        if not self.rows:
            return self.outline[0]
        names = _columns(self.rows, *HEADINGS, "seconds")
        lines, before = [["epoch", *names]], 0
        shown = self.rows
        if len(shown) > PRINTED_EPOCHS:
            of_epoch = {row.epoch: row for row in [*shown[:3], self.best, *shown[-3:]]}
            shown = [row for _, row in sorted(of_epoch.items())]
        for row in shown:
            if row.epoch != before + 1:
                lines.append(["…", *[""] * len(names)])
            lines.append([str(row.epoch), *(_cell(name, row) for name in names)])
            before = row.epoch
        return "\n".join([table(lines, right=range(len(lines[0]))), *self.outline])

    @property
    def outline(self) -> list[str]:
        """A line on the run, and one on the share of binary weights."""
        if not self.rows:
            return ["no epochs"]
        best, size = self.best, [] if self.size is None else [str(self.size)]
        name, value = best.score
        if math.isnan(value):
            last = "loss" if best.train_error is None else "train error"
            result = f"last {last} {CELLS[last](best)}"
        else:
            products = "" if self.precision in (None, "fp32") else f", {self.precision} products"
            weights = f"{best.validation_weights} weights{products}"
            result = f"best: epoch {best.epoch}, {name} {_score(best, value)} ({weights})"
        return [f"{len(self.rows)} epoch{'s' * (len(self.rows) > 1)}, {self.seconds:.1f} s; {result}", *size]

    def __iter__(self) -> Iterator[EpochLog]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: EpochLog) -> EpochLog:
        """Append an epoch with its `best` filled in."""
        self.rows.append(row)
        if row.validation_loss is not None:
            self.rows[-1] = replace(row, best=self.best.score[1])
        return self.rows[-1]

    def to_jsonl(self) -> str:
        return "".join(f"{text}\n" for text in self.texts)

    @property
    def texts(self) -> list[str]:
        """The epochs as JSON, one string each: dicts would make a long pickle, which is slow to check."""
        return [json.dumps(row.__dict__) for row in self.rows]

    @classmethod
    def from_rows(cls, rows: Any) -> History:
        """The epochs in a checkpoint, the inverse of `texts`."""
        return cls([EpochLog.from_dict(json.loads(row)) for row in rows])
