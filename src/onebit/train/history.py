"""What training reports: one `EpochLog` per epoch, a `History` of them."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onebit.common.files import read_regular
from onebit.errors import FormatError, UsageError, first_line

WEIGHT_FILES = ("best.safetensors", "final.safetensors")
"""Of a run folder, in the order of preference: the reported model is the one that validation chose."""
STAGE_FOLDER = "stage1"
"""Of a run in two stages: the run folder of the first one, in its own."""
TABLE_FILE = "continual.json"
"""Of a folder of several tasks: what was reached on each."""
ADDED_FIELDS = ("layers", "validation_mean_iou", "train_error5", "validation_error5", "best")
"""Of metrics.jsonl: what runs of earlier versions do not have."""
SHARES = ("_error", "_error5", "_iou", "best")
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": (str,),
}
MOST_RESULT = 16_000_000
"""Bytes of a result.json, continual.json or seeds.json."""
MOST_METRICS = 256_000_000
"""Bytes of a metrics.jsonl."""
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


def read_seconds(folder: Path) -> float:
    """The seconds of a finished run.

    Raises:
        FormatError: its result.json is not there, or damaged.
    """
    try:
        return float(json.loads(read_regular(folder / "result.json", largest=MOST_RESULT))["seconds"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise FormatError(f"{folder / 'result.json'}: damaged ({first_line(error)})") from None


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
    train_error5, validation_error5: share whose class is not among the five largest logits; None where not counted.
    best: lowest validation error so far, of masks the highest mean IoU; None without a validation split, and in runs of
        earlier versions.
    layers: the health of each layer, see `onebit.evaluation.health.LayerHealth`; empty in runs of earlier versions.
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
    train_error5: float | None = None
    validation_error5: float | None = None
    best: float | None = None

    @classmethod
    def from_dict(cls, values: Any) -> EpochLog:
        """The epoch that a file describes; fields that this version does not know are left out.

        Raises:
            ValueError: not a mapping, a field missing, of the wrong type or out of range.
        """
        if not isinstance(values, dict):
            raise ValueError("expected a JSON object")
        row: dict[str, Any] = {}
        for known in dataclasses.fields(cls):
            if known.name in ADDED_FIELDS and known.name not in values:
                continue
            if known.name not in values:
                raise ValueError(f"{known.name} is missing")
            value: Any = values[known.name]
            fits = known.name == "layers" or type(value) in _KINDS[str(known.type)]
            if known.name == "layers":
                _check_layers(value)
            elif not fits:
                raise ValueError(f"{known.name} must be {known.type}, got {reprlib.repr(value)}")
            elif known.name.endswith(SHARES) and value is not None and not 0 <= value <= 1:
                raise ValueError(f"{known.name} must be a fraction 0–1, got {value}")
            elif known.name in ("seconds", "epoch") and not 0 <= value < 1e12:
                raise ValueError(f"{known.name} must be 0 or more, got {value}")
            elif isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError(f"{known.name} is too large")
            row[known.name] = value
        return cls(**row)

    def __str__(self) -> str:
        text = f"epoch {self.epoch}/{self.epochs}  loss {self.train_loss:.4f}  error {100 * self.train_error:.2f} %"
        if self.validation_error is not None:
            text += f"  validation {100 * self.validation_error:.2f} % ({self.validation_weights} weights)"
        if self.validation_mean_iou is not None:
            text += f"  mean IoU {self.validation_mean_iou:.4f}"
        text += f"  lr {self.lr:.2e}  flips {100 * self.flip_ratio:.2f} %  saturated {100 * self.saturation:.1f} %"
        return text + f"  {self.seconds:.1f} s"


def read_row(row: Any) -> Any:
    """The mapping in a row of a checkpoint.

    Raises:
        ValueError: text that is not JSON.
    """
    return json.loads(row) if isinstance(row, str) else row


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _known(value: float | None, shown: Callable[[float], str]) -> str:
    return "-" if value is None else shown(value)


CELLS: dict[str, Callable[[EpochLog], str]] = {
    "loss": lambda row: f"{row.train_loss:.4f}" if row.train_loss < 1000 else f"{row.train_loss:.3g}",
    "train error": lambda row: _percent(row.train_error),
    "validation error": lambda row: _known(row.validation_error, _percent),
    "mean IoU": lambda row: _known(row.validation_mean_iou, "{:.4f}".format),
    "best": lambda row: _known(row.best, _percent if row.validation_mean_iou is None else "{:.4f}".format),
    "flips": lambda row: _percent(row.flip_ratio),
    "saturated": lambda row: f"{100 * row.saturation:.1f} %",
    "seconds": lambda row: f"{row.seconds:.1f}",
}
"""Heading of a column -> its cell."""


def _columns(rows: Sequence[EpochLog], *names: str) -> list[str]:
    """Those of some columns that have something to show."""
    validated = any(row.validation_error is not None for row in rows)
    masked = any(row.validation_mean_iou is not None for row in rows)
    shown = {"validation error": validated, "best": validated, "mean IoU": masked, "saturated": not masked}
    return [name for name in names if shown.get(name, True)]


def _line(first: str, cells: Mapping[str, str], *, width: int) -> str:
    """The number of an epoch in `width` columns, and cells under their headings, aligned right."""
    return f"{first:>{width}}" + "".join(f"  {cell:>{max(len(head), 8)}}" for head, cell in cells.items())


class EpochLines:
    """The lines that a training prints for its epochs: the headings once, then a line for each, within 80 columns."""

    def __init__(self) -> None:
        self._rows: list[EpochLog] = []

    def of(self, row: EpochLog) -> list[str]:
        """The lines of the next epoch; a stage or task that begins gets its own headings."""
        if row.epoch == 1:
            self._rows = []
        self._rows.append(row)
        mean = sum(seen.seconds for seen in self._rows) / len(self._rows)
        names = _columns([row], "loss", "train error", "validation error", "mean IoU", "best")
        cells = {name: CELLS[name](row) for name in names} | {"left": time_left(mean * (row.epochs - row.epoch))}
        line = _line(f"{row.epoch}/{row.epochs}", cells, width=9)
        return [line] if len(self._rows) > 1 else [_line("epoch", {name: name for name in cells}, width=9), line]


def time_left(seconds: float) -> str:
    """A time as `42 s`, `12 min` or `3.1 h`."""
    if seconds < 300:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._outline()})"

    def __str__(self) -> str:
        """A table within 80 columns, a line for each epoch; the last line names the best one."""
        if not self.rows:
            return "no epochs"
        names = _columns(
            self.rows, "loss", "train error", "validation error", "mean IoU", "flips", "saturated", "seconds"
        )
        lines = [_line(str(row.epoch), {name: CELLS[name](row) for name in names}, width=5) for row in self.rows]
        return "\n".join([_line("epoch", {name: name for name in names}, width=5), *lines, self._outline()])

    def _outline(self) -> str:
        if not self.rows:
            return "no epochs"
        best, count = self.best, f"{len(self.rows)} epoch{'s' if len(self.rows) > 1 else ''}, {self.seconds:.1f} s"
        if best.validation_error is None:
            return f"{count}; last train error {_percent(best.train_error)}"
        reached = (
            f"validation error {_percent(best.validation_error)}"
            if best.validation_mean_iou is None
            else f"mean IoU {best.validation_mean_iou:.4f}"
        )
        return f"{count}; best: epoch {best.epoch}, {reached} ({best.validation_weights} weights)"

    def __iter__(self) -> Iterator[EpochLog]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_jsonl(self) -> str:
        return "".join(json.dumps(asdict(row)) + "\n" for row in self.rows)

    @property
    def texts(self) -> list[str]:
        """The epochs as JSON, one text each: as mappings they would make a long pickle, which takes long to check."""
        return [json.dumps(row.__dict__) for row in self.rows]

    @classmethod
    def from_rows(cls, rows: Iterable[Any]) -> History:
        """The epochs in a checkpoint: inverse of `texts`; earlier versions wrote mappings.

        Raises:
            ValueError: a row is not one, or not the one that comes next.
        """
        found = [EpochLog.from_dict(read_row(row)) for row in rows]
        for epoch, row in enumerate(found, start=1):
            if row.epoch != epoch:
                raise ValueError(f"epoch {row.epoch} where epoch {epoch} is expected")
        return cls(found)


def _check_layers(layers: Any) -> None:
    """Raises ValueError: not shares by layer and measure."""
    if not isinstance(layers, dict) or not all(isinstance(measured, dict) for measured in layers.values()):
        raise ValueError("layers must be an object of objects")
    for name, measured in layers.items():
        for measure, share in measured.items():
            if type(share) not in (int, float) or not 0 <= share <= 1:
                found = reprlib.repr(share)
                raise ValueError(f"{measure} of layer {reprlib.repr(name)} must be a fraction 0–1, got {found}")
