"""Reports of continual learning: the accuracy on every task after every task."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onebit.errors import FormatError
from onebit.recipe import ContinualRecipe
from onebit.report import compare_runs, compare_tasks, write_report
from onebit.report.run_folders import find_folders
from onebit.report.tables import task_tables
from onebit.report.tasks import Row, plot_tasks, task_rows
from support.report_runs import RECIPE, check_picture, make_run, page_text, task_cells, write_tasks

TASKS = replace(RECIPE, name="tasks", continual=ContinualRecipe(tasks=3))
LEARNT = {"bayesbinn": [[0.9], [0.8, 0.7]], "ste": [[0.95], [0.4, 0.9], [0.3, 0.5, 0.91]]}


def tasks_run(folder: Path, *, seed: int = 0, lower: float = 0.0) -> Path:
    """A folder of three tasks, of which `bayesbinn` has learned two."""
    learned = {method: [[a - lower for a in row] for row in rows] for method, rows in LEARNT.items()}
    cells = [*task_cells(learned), *task_cells({"ste": [[0.97], [0.6, 0.9]]}, bn="reestimate")]
    return write_tasks(folder, cells, tasks=3, recipe=replace(TASKS, seed=seed))


def test_a_row_for_each_method_task_and_norm() -> None:
    rows = task_rows([[*task_cells(LEARNT), *task_cells({"ste": [[0.97]]}, bn="reestimate")]])
    assert [(row.method, row.bn, row.task) for row in rows] == [
        ("bayesbinn", "trained", 1),
        ("bayesbinn", "trained", 2),
        ("ste", "trained", 1),
        ("ste", "trained", 2),
        ("ste", "trained", 3),
        ("ste", "reestimate", 1),
    ]
    assert rows[1] == Row("bayesbinn", "binary", "trained", 2, ((0.8,), (0.7,)))
    assert rows[1].means == (0.75,)
    first, _, third = task_tables(rows)
    assert first.heading == "bayesbinn, binary weights, BatchNorm of the latest task"
    assert first.head == ["test accuracy", "task 1", "task 2", "mean"]
    assert first.rows == [["after task 1", "90.00 %", "", "90.00 %"], ["after task 2", "80.00 %", "70.00 %", "75.00 %"]]
    assert third.heading.endswith("BatchNorm of each task")


def test_several_seeds_become_mean_and_standard_deviation() -> None:
    longer, shorter = task_cells({"ste": [[0.9], [0.5, 0.7]]}), task_cells({"ste": [[0.7]]})
    first, second = task_rows([longer, shorter])
    assert first.accuracies == ((0.9, 0.7),)
    assert second.accuracies == ((0.5,), (0.7,))
    [table] = task_tables([first, second])
    assert table.rows[0] == ["after task 1", "80.00 ± 14.14 %", "", "80.00 ± 14.14 %"]


def test_a_report_holds_a_table_and_a_picture(tmp_path: Path) -> None:
    files = write_report([tasks_run(tmp_path / "run")], tmp_path / "report")
    assert [file.name for file in files] == ["tasks-tasks.png", "index.html"]
    assert check_picture(files[0])[0] == 1110
    text = page_text(tmp_path / "report")
    for expected in (
        "tasks 1 run on mnist tasks: bayesbinn, binary weights, BatchNorm of the latest task",
        "after task 1 90.00 % 90.00 % after task 2 80.00 % 70.00 % 75.00 %",
        "after task 3 30.00 % 50.00 % 91.00 % 57.00 %",
        "tasks: ste, binary weights, BatchNorm of each task",
        "runs run",
        "continual.tasks 3",
    ):
        assert expected in text


@pytest.mark.usefixtures("no_ink")
def test_seeds_are_one_table_beside_other_recipes_and_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        tasks_run(tmp_path / "all" / f"seed-{seed}", seed=seed, lower=0.1 * seed)
    without = write_tasks(
        tmp_path / "without",
        task_cells({"bayesbinn": [[0.5]]}),
        tasks=3,
        recipe=replace(TASKS, name="without", continual=ContinualRecipe(tasks=3, prior=False)),
    )
    runs = [tmp_path / "all", without, make_run(tmp_path / "one")]
    files = write_report(runs, tmp_path / "report")
    names = [file.name for file in files]
    assert names == ["error.png", "loss.png", "time.png", "tasks-tasks.png", "tasks-without.png", "index.html"]
    text = page_text(tmp_path / "report")
    assert "Comparison of 3 recipes 4 runs on mnist" in text
    assert "85.00 ± 7.07 %" in text
    assert "runs seed-0, seed-1" in text
    settings = text.partition("Settings that differ")[2].partition("All settings")[0]
    assert "continual.prior true true false" in settings
    assert [row["label"] for row in compare_runs(runs)] == ["tiny"]
    both, other = compare_tasks(runs)
    assert (both["label"], both["seeds"], both["tasks"], other["label"]) == ("tasks", [0, 1], 3, "without")
    assert both["table"][1]["mean"]["accuracies"] == pytest.approx([0.75, 0.65])
    assert [seen["n"] for seen in both["table"][1]["seen"]] == [2, 2]


@pytest.mark.usefixtures("no_ink")
def test_a_folder_of_runs_is_replaced_by_those_with_an_epoch(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    two, seed, one = tasks_run(runs / "b-tasks"), make_run(runs / "c-seeds" / "seed-1"), make_run(runs / "a")
    (make_run(runs / "killed") / "metrics.jsonl").write_bytes(b"")
    (runs / "empty").mkdir()
    (runs / "notes.txt").write_text("no run")
    assert find_folders([runs]) == ([one, seed], [two])
    assert find_folders([one / ".." / "b-tasks", one, runs, two]) == ([one, seed], [two])
    assert find_folders([tmp_path]) == ([tmp_path], [])  # only what is directly in the given folder
    assert len(write_report([runs], tmp_path / "report")) > 3


@pytest.mark.usefixtures("no_ink")
def test_what_cannot_be_reported_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    run = tasks_run(tmp_path / "run")
    (run / "continual.json").write_text("{")
    with pytest.raises(FormatError, match=r"continual\.json"):
        write_report([make_run(tmp_path / "one"), run], tmp_path / "report")
    (run / "continual.json").unlink()
    make_run(run / "bayesbinn" / "task-1")
    with pytest.raises(OSError, match=r"continual\.json"):
        write_report([run], tmp_path / "report")
    assert not (tmp_path / "report").exists()
    assert len(write_report([run / "bayesbinn" / "task-1"], tmp_path / "report")) == 4


@pytest.mark.parametrize(("tasks", "seeds"), [(8, 3), (30, 1)])
def test_pictures_of_few_and_of_many_tasks(tmp_path: Path, tasks: int, seeds: int) -> None:
    def accuracies(seed: int) -> list[list[float]]:
        return [[0.9 - 0.1 * seed - 0.01 * (task - seen) for seen in range(task)] for task in range(1, tasks)]

    tables = [task_cells({"ste": accuracies(seed)}) for seed in range(seeds)]
    plot_tasks(task_rows(tables), tmp_path / "tasks.png", tasks=tasks, title="a $title$ <b>")
    check_picture(tmp_path / "tasks.png")


def test_a_report_needs_no_torch_and_its_import_no_matplotlib(tmp_path: Path) -> None:
    folders = [str(tasks_run(tmp_path / "tasks")), str(make_run(tmp_path / "run", weights=True))]
    code = (
        "import sys, onebit.report; from onebit.__main__ import main\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"assert main(['report', *{folders!r}, '-o', {str(tmp_path / 'report')!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("after task ") == 7
    check_picture(tmp_path / "report" / "weights-run.png")
