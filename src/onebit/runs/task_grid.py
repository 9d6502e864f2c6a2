"""The table of continual learning, continual.json: the score on every task after every task. Does not load torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from onebit.common.files import read_json
from onebit.errors import FormatError, first_line
from onebit.train.history import MOST_RESULT

MOST_TASKS = 999


@dataclass(frozen=True)
class Cell:
    """How many test images of the task `seen` are classified correctly after the task `task`, both counted from 1.

    weights: the test mode; bn: whose BatchNorm statistics, see `onebit.runs.continual`. loss: mean over the images.
    """

    method: str
    task: int
    seen: int
    weights: str
    bn: str
    correct: int
    count: int
    loss: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def block(self) -> tuple[str, str, str]:
        """What the rows of one method and test mode share: method, test mode, BatchNorm statistics."""
        return self.method, self.weights, self.bn


@dataclass(frozen=True)
class TaskTable:
    """The content of a continual.json; `tasks` counts those to come as well, `seconds` sums all training runs."""

    cells: tuple[Cell, ...]
    tasks: int
    seconds: float
    parameters: int


def read_table(path: Path) -> TaskTable:
    """Read a continual.json."""
    try:
        values = read_json(path, largest=MOST_RESULT)
        if not isinstance(values, dict) or not isinstance(values.get("cells"), list) or not values["cells"]:
            raise ValueError("expected an object with a list 'cells'")
        cells = tuple(_read_cell(cell) for cell in values["cells"])
        tasks = _whole(values, "tasks", least=max(cell.task for cell in cells), most=MOST_TASKS)
        _check_rows(cells)
        seconds = values.get("seconds")
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be a number, got {seconds!r}")
        return TaskTable(cells, tasks, float(seconds), _whole(values, "parameters"))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise FormatError(f"{path}: damaged ({first_line(error)[:200]})") from None


def _read_cell(values: Any) -> Cell:
    """Raises ValueError: not a cell."""
    names = [field.name for field in fields(Cell)]
    if not isinstance(values, dict) or not set(names) <= values.keys():
        raise ValueError(f"a cell needs {', '.join(names)}")
    if values["loss"] is None:  # JSON has no number for a loss that is not finite
        values = {**values, "loss": math.nan}
    cell = Cell(**{name: values[name] for name in names})
    if (
        not isinstance(cell.method, str)
        or not isinstance(cell.weights, str)
        or cell.bn not in ("trained", "reestimate")
    ):
        raise ValueError("method and weights of a cell must be text, bn trained or reestimate")
    if not isinstance(cell.loss, (int, float)):
        raise ValueError("loss of a cell must be a number")
    _whole(values, "seen", least=1, most=_whole(values, "task", least=1, most=MOST_TASKS))
    _whole(values, "correct", most=_whole(values, "count", least=1))
    return cell


def _whole(values: Mapping[str, Any], name: str, *, least: int = 0, most: int = 2**63) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r:.40}")
    return value


def _check_rows(cells: Sequence[Cell]) -> None:
    """Raises ValueError: a row is not one cell for each task seen so far, in order."""
    rows: dict[tuple[tuple[str, str, str], int], list[int]] = {}
    for cell in cells:
        rows.setdefault((cell.block, cell.task), []).append(cell.seen)
    for (block, task), seen in rows.items():
        if seen != list(range(1, task + 1)):
            raise ValueError(f"after task {task} of {block[0]:.40} the tasks {str(seen)[:40]} were tested")
