"""Results of training: result.json of a run, continual.json of several tasks; without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal

from onebit.common.fields import Checked, Count, NotNegative, NotNegativeInt, checked, read
from onebit.common.files import read_json
from onebit.common.text import NetSize
from onebit.errors import FormatError, UsageError, first_line
from onebit.train.history import MAX_RESULT, RESULT_FILE

_SIZES = "binary_weights", "weights", "packed_bytes"
_TYPES: dict[str, Any] = dict.fromkeys(("parameters", "seed", *_SIZES), int | None)
_TYPES |= {"seconds": NotNegative | None, "note": str | None, "sha256": str | None}
_TYPES |= {"classes": tuple[str, ...] | None, "test": dict[str, object] | None}
CLASS_SCORES = {"class_accuracy": "accuracy", "class_f1": "F1", "class_iou": "IoU", "class_dice": "Dice"}
"""Key of the scores of each class in a result -> heading."""
_SCORE: dict[str, Any] = dict.fromkeys(("accuracy", "mean_iou", "dice", "f1"), NotNegative | None)
_SCORE |= dict.fromkeys(CLASS_SCORES, tuple[NotNegative | None, ...] | None)
_SCORE |= {"confusion": tuple[tuple[NotNegativeInt, ...], ...] | None}
_SCORE |= {"correct": int | None, "count": int | None, "bn": str | None}


@dataclass(frozen=True)
class RunResult:
    """The content of a result.json; missing values are None.

    values: all of it. seconds: of the whole training. sha256: of the weight file that the scores are about.
    test: test mode -> its scores, as `Score.as_dict`. size: how much of the net is binary.
    """

    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            read(self.values.get(name), kind, name=name)
        for (name, kind), score in product(_SCORE.items(), self.test.values()):
            read(score.get(name), kind, name=name)

    @property
    def seconds(self) -> float | None:
        return self.values.get("seconds")

    @property
    def sha256(self) -> str | None:
        return self.values.get("sha256")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; () if unknown."""
        return tuple(self.values.get("classes") or ())

    @property
    def test(self) -> dict[str, dict[str, Any]]:
        return self.values.get("test", {})

    @property
    def size(self) -> NetSize | None:
        sizes = [self.values.get(key) for key in _SIZES]
        return None if None in sizes else NetSize(*sizes)  # type: ignore[arg-type]

    def is_about(self, sha256: str) -> bool:
        """Whether the scores may be those of a weight file."""
        return self.sha256 in (None, sha256)

    @classmethod
    def read(cls, folder: Path) -> RunResult | None:
        """The result of a run, None before it is finished; FormatError for a damaged file."""
        path = folder / RESULT_FILE
        if not path.exists():
            return None
        try:
            return cls(dict(read_json(path, largest=MAX_RESULT)))
        except (OSError, UsageError, ValueError, TypeError, AttributeError) as error:
            raise FormatError(f"{path}: damaged ({first_line(error)})") from None


MAX_TASKS = 999


@checked(frozen=True)
class Cell(Checked):
    """Correct test images of task `seen` after task `task`, both numbered from 1.

    weights: the test mode. bn: the BatchNorm statistics, see `onebit.runs.continual`. loss: mean over the images.
    """

    method: str
    task: Count
    seen: Count
    weights: str
    bn: Literal["trained", "reestimate"]
    correct: NotNegativeInt
    count: Count
    loss: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def block(self) -> tuple[str, str, str]:
        """The block of the table: method, test mode, BatchNorm statistics."""
        return self.method, self.weights, self.bn


@dataclass(frozen=True)
class TaskTable:
    """The content of a continual.json; `tasks` includes those to come, `seconds` is of all training runs."""

    cells: tuple[Cell, ...] = ()
    tasks: int = 0
    seconds: float = 0.0


def read_table(path: Path) -> TaskTable:
    """Read a continual.json."""
    try:
        values = read_json(path, largest=MAX_RESULT)
        names = [field.name for field in fields(Cell)]
        for cell in values["cells"]:
            cell["loss"] = math.nan if cell["loss"] is None else cell["loss"]  # JSON has no number for it
        cells = tuple(Cell(**{name: cell[name] for name in names}) for cell in values["cells"])
        table = TaskTable(cells, values["tasks"], float(values["seconds"]))
        fits = all(cell.correct <= cell.count and cell.seen <= cell.task <= table.tasks for cell in cells)
        if not fits or table.tasks > MAX_TASKS:
            raise ValueError("got tasks or images beyond their number")
        return table
    except (UsageError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: damaged ({first_line(error)[:200]})") from None
