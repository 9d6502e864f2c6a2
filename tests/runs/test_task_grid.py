"""continual.json: what is read back, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import task_cells, write_tasks

from onebit.common.files import json_text
from onebit.errors import FormatError
from onebit.runs.task_grid import TaskTable, read_table


def test_the_table_is_read_back(tmp_path: Path) -> None:
    cells = task_cells({"ste": [[0.9], [0.5, 0.8]]})
    path = write_tasks(tmp_path / "run", cells, tasks=5) / "continual.json"
    assert read_table(path) == TaskTable(tuple(cells), 5, 12.5, 2176)
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
    ("change", "reason"),
    [
        (lambda values: [values], "expected an object with a list 'cells'"),
        (lambda values: values | {"cells": []}, "expected an object with a list 'cells'"),
        (lambda values: values | {"cells": [7]}, "a cell needs method, task, seen"),
        (lambda values: values | {"tasks": 1}, "tasks must be a whole number from 2 to 999, got 1"),
        (lambda values: values | {"tasks": 10**9}, "tasks must be a whole number from 2 to 999"),
        (lambda values: values | {"seconds": "long"}, "seconds must be a number, got 'long'"),
        (
            lambda values: values["cells"][0].update(correct=101),
            "correct must be a whole number from 0 to 100, got 101",
        ),
        (lambda values: values["cells"][0].update(count=0), "count must be a whole number from 1"),
        (lambda values: values["cells"][0].update(task=True), "task must be a whole number from 1 to 999, got True"),
        (lambda values: values["cells"][0].update(bn="own"), "bn trained or reestimate"),
        (lambda values: values["cells"][0].update(method=None), "method and weights of a cell must be text"),
        (lambda values: values["cells"][0].update(loss="low"), "loss of a cell must be a number"),
        (lambda values: values["cells"].pop(), "after task 2 of ste the tasks [1] were tested"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, change: Callable[[Any], Any], reason: str) -> None:
    path = write_tasks(tmp_path / "run", task_cells({"ste": [[0.9], [0.5, 0.8]]}), tasks=5) / "continual.json"
    values = json.loads(path.read_text())
    changed = change(values)
    path.write_text(json.dumps(changed if isinstance(changed, (list, dict)) and "seen" not in changed else values))
    with pytest.raises(FormatError, match=r"continual\.json: damaged \(") as info:
        read_table(path)
    assert reason in str(info.value)
    assert "\n" not in str(info.value)


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    for data, reason in ((b"{", "damaged"), (b"\xff\xfe", "damaged"), (b"[" * 100_000, "damaged")):
        (tmp_path / "continual.json").write_bytes(data)
        with pytest.raises(FormatError, match=rf"continual\.json: {reason}"):
            read_table(tmp_path / "continual.json")
    with pytest.raises(FormatError, match=r"gone: cannot be read \(No such file"):
        read_table(tmp_path / "gone")
