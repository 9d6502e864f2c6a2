"""continual.json: what is read back, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onebit.common.files import json_text
from onebit.errors import FormatError
from onebit.runs.result import TaskTable, read_table
from support.report_runs import task_cells, write_tasks


def test_the_table_is_read_back(tmp_path: Path) -> None:
    cells = task_cells({"ste": [[0.9], [0.5, 0.8]]})
    path = write_tasks(tmp_path / "run", cells, tasks=5) / "continual.json"
    assert read_table(path) == TaskTable(tuple(cells), 5, 12.5)
    assert [cell.accuracy for cell in cells] == [0.9, 0.5, 0.8]


def test_a_loss_that_is_not_finite_is_read_back(tmp_path: Path) -> None:
    path = write_tasks(tmp_path / "run", task_cells({"ste": [[0.9]]}), tasks=5) / "continual.json"
    values = json.loads(path.read_text())
    values["cells"][0]["loss"] = math.inf
    path.write_text(json_text(values, indent=1))  # as a training writes it
    (cell,) = read_table(path).cells
    assert math.isnan(cell.loss)
    assert cell.accuracy == 0.9


@pytest.mark.parametrize(
    "change",
    [
        lambda values: [values],
        lambda values: values | {"cells": [7]},
        lambda values: values | {"tasks": 1},
        lambda values: values | {"seconds": "long"},
        lambda values: values["cells"][0].update(correct=101),
        lambda values: values["cells"][0].update(count=0),
        lambda values: values["cells"][0].update(bn="own"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = write_tasks(tmp_path / "run", task_cells({"ste": [[0.9], [0.5, 0.8]]}), tasks=5) / "continual.json"
    values = json.loads(path.read_text())
    changed = change(values)
    path.write_text(json.dumps(changed if isinstance(changed, (list, dict)) and "seen" not in changed else values))
    with pytest.raises(FormatError, match="damaged"):
        read_table(path)
