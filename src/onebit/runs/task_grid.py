"""The table of continual learning, continual.json: the score on every task after every task. Does not load torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from onebit.common.fields import Checked, Count, NotNegativeInt
from onebit.common.files import read_json
from onebit.errors import FormatError, UsageError, first_line
from onebit.train.history import MOST_RESULT

MOST_TASKS = 999


@dataclass(frozen=True)
class Cell(Checked):
    """How many test images of the task `seen` are classified correctly after the task `task`, both counted from 1.

    weights: the test mode; bn: whose BatchNorm statistics, see `onebit.runs.continual`. loss: mean over the images.
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
        names = [field.name for field in fields(Cell)]
        for cell in values["cells"]:
            cell["loss"] = math.nan if cell["loss"] is None else cell["loss"]  # JSON has no number for it
        cells = tuple(Cell(**{name: cell[name] for name in names}) for cell in values["cells"])
        table = TaskTable(cells, values["tasks"], float(values["seconds"]), int(values["parameters"]))
        rows: dict[tuple[tuple[str, str, str], int], list[int]] = {}
        for cell in cells:
            rows.setdefault((cell.block, cell.task), []).append(cell.seen)
        whole = all(seen == list(range(1, task + 1)) for (_, task), seen in rows.items())
        whole &= all(cell.correct <= cell.count for cell in cells)
        if not whole or not max(cell.task for cell in cells) <= table.tasks <= MOST_TASKS:
            raise ValueError("a row is not one cell for each task seen so far")
        return table
    except (UsageError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: damaged ({first_line(error)[:200]})") from None
