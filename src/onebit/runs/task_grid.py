"""The table of continual learning, continual.json: the score on every task after every task. Does not load torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
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
        cells = tuple(_read_cell(cell) for cell in values["cells"])
        table = TaskTable(cells, values["tasks"], float(values["seconds"]), int(values["parameters"]))
        rows: dict[tuple[tuple[str, str, str], int], list[int]] = {}
        for cell in cells:
            rows.setdefault((cell.block, cell.task), []).append(cell.seen)
        whole = all(seen == list(range(1, task + 1)) for (_, task), seen in rows.items())
        if not whole or not 1 <= max(cell.task for cell in cells) <= table.tasks <= MOST_TASKS:
            raise ValueError("a row is not one cell for each task seen so far")
        return table
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: damaged ({first_line(error)[:200]})") from None


def _read_cell(values: Any) -> Cell:
    cell = Cell(**{field.name: values[field.name] for field in fields(Cell)})
    cell = replace(cell, loss=math.nan if cell.loss is None else float(cell.loss))  # JSON has no number for it
    texts = all(isinstance(text, str) for text in cell.block)
    numbers = all(type(number) is int for number in (cell.task, cell.seen, cell.correct, cell.count))
    if not (texts and numbers and cell.bn in ("trained", "reestimate") and 0 <= cell.correct <= cell.count > 0):
        raise ValueError(f"not a cell: {cell!r}")
    return cell
