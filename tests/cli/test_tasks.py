"""`onebit train` with several tasks: what it prints and writes, resuming, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onebit.train.printing import TrainingPrinter
from support.command_line import Onebit

TASKS = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--continual.tasks", "2", "--draws", "2"]
SHORT = [*TASKS, "--epochs", "0.1", "--threads", "1"]
HEADING = re.compile(r"(bayesbinn|ste), (ensemble:2|binary) weights, BatchNorm of (the latest|each) task:")


def test_a_table_and_a_picture_and_no_second_run_in_the_same_folder(onebit: Onebit, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = onebit("train", "mnist-permuted", *SHORT, "--out", folder)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    kinds = [("bayesbinn", "ensemble:2", "the latest")]
    kinds += [(method, "binary", bn) for method in ("bayesbinn", "ste") for bn in ("the latest", "each")]
    assert [found.groups() for line in lines if (found := HEADING.fullmatch(line))] == kinds
    rows = [line.split() for line in lines if line.startswith("after task")]
    assert [(row[2], len(row)) for row in rows] == [("1", 7), ("2", 9)] * 5
    assert (folder / "continual.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "log.txt").read_text().splitlines()[-len(lines) :] == lines
    assert "after task" not in done.err  # the table is said once
    learnt = [line for line in done.err.splitlines() if line.endswith(" learned")]
    assert learnt == [f"{method}: task {task} of 2 learned" for method in ("bayesbinn", "ste") for task in "12"]

    assert "--resume" in onebit("train", "mnist-permuted", *SHORT, "--out", folder).line
    other = onebit("train", "mnist-permuted", *SHORT, "--optimizer.lr", "0.5", "--out", folder, "--resume")
    assert (other.status, "optimizer.lr" in other.line) == (2, True)
    again = onebit("train", "mnist-permuted", *SHORT, "--out", folder, "--resume")
    assert again.out == done.out
    assert "after task" not in again.err

    own = onebit("evaluate", folder / "ste" / "task-2", "--json").json
    second = lines[lines.index("ste, binary weights, BatchNorm of the latest task:") + 3].split()
    assert second[:3] == ["after", "task", "2"]
    assert f"{100 * own['accuracy']:.2f}" == second[5]


@pytest.mark.usefixtures("no_ink")
def test_several_seeds_of_several_tasks(onebit: Onebit, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    flags = ["mnist-permuted", *SHORT, "--continual.against", "[]"]
    done = onebit("train", *flags, "--seeds", "0-1", "--out", folder)
    assert done.status == 0, done.err
    assert "with binary weights (n = 2: " in done.out
    assert done.out.endswith(f"onebit report {folder} -o DIR compares them\n")

    report = onebit("report", folder, "-o", tmp_path / "report")
    assert report.status == 0, report.err
    rows = [line for line in report.out.splitlines() if line.startswith("after task")]
    assert len(rows) == 6
    assert all(" ± " in row for row in rows)
    assert (tmp_path / "report" / "tasks-mnist-permuted.png").exists()
    more = onebit("train", *flags, "--seeds", "2", "--out", folder)
    assert "with binary weights (n = 3: " in more.out
    again = onebit("train", *flags, "--seeds", "1", "--out", folder, "--resume")
    assert again.out.splitlines()[:-1] == more.out.splitlines()[:-1]
    assert "seed 1 (1 of 1, already trained)" in again.err
    task = folder / "seed-0" / "bayesbinn" / "task-1" / "result.json"
    task.write_text("{")
    damaged = onebit("train", *flags, "--seeds", "1", "--out", folder, "--resume")
    assert f"{task}: damaged" in damaged.line
    (folder / "seed-0" / "continual.json").unlink()
    assert "n = 2" in onebit("train", *flags, "--seeds", "1", "--out", folder, "--resume").out

    as_json = onebit("report", folder, "-o", tmp_path / "report", "--json").json
    assert as_json["rows"] == []
    assert [len(row["seen"]) for row in as_json["tasks"][0]["table"]] == [1, 2] * 3


def interrupt(onebit: Onebit, monkeypatch: pytest.MonkeyPatch, *arguments: object, step: int) -> None:
    """Run a training that is stopped by Ctrl-C after so many steps."""

    def stop(self: TrainingPrinter, done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingPrinter, "step", stop)
        assert "continue with: onebit train --resume" in onebit("train", *arguments).err.splitlines()[-1]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_does_not_overwrite_tasks(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "all" / "seed-0"
    two = ["--epochs", "2", "--optimizer.lr", "0.05"]
    interrupt(onebit, monkeypatch, "mnist-permuted", *SHORT, *two, "--out", folder, step=30)
    assert not (folder / "continual.json").exists()
    assert (folder / "bayesbinn" / "task-1" / "last.ckpt").exists()
    before = contents(folder)
    for recipe in ("digits-smoke", "mnist-permuted"):
        refused = onebit("train", recipe, "--out", folder)
        assert (refused.status, "--overwrite" in refused.line) == (2, True)
    assert "was trained with" in onebit("train", "digits-smoke", "--out", folder, "--resume").err.splitlines()[-1]
    assert "holds a run" in onebit("train", "digits-smoke", "--seeds", "0-1", "--out", folder.parent).line
    report = onebit("report", folder, "-o", tmp_path / "report")
    assert "continual.json" in report.line
    assert not (tmp_path / "report").exists()
    assert contents(folder) == before


def test_a_recipe_becomes_a_continual_one(onebit: Onebit) -> None:
    task = onebit("train", "--task", "permuted-mnist", "--print-config")
    assert task.out == onebit("train", "mnist-permuted", "--print-config").out
    recipe = onebit("train", "mnist-ste", "--task", "permuted-mnist", "--print-config", "--json").json
    assert recipe["continual"] == {"tasks": 5, "prior": True, "against": [], "own": None}  # STE is its own method
    assert (recipe["name"], recipe["measured"]) == ("mnist-ste", "")


def test_the_requested_method_names_its_folder(onebit: Onebit, tmp_path: Path) -> None:
    """With this optimizer its settings come near those of STE."""
    own = ["--task", "permuted-mnist", "--method", "binaryconnect", "--optimizer", "adam"]
    small = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--continual.tasks", "2", "--epochs", "0.1"]
    flags = ["--continual.against", '["ste"]', "--threads", "1", "--out", tmp_path / "run"]
    done = onebit("train", *own, *small, *flags)
    assert done.status == 0, done.err
    assert [path.name for path in sorted(tmp_path.glob("run/*/")) if path.is_dir()] == ["binaryconnect", "ste"]
    assert onebit("train", "--resume", tmp_path / "run").out == done.out
    alone = onebit("train", "--task", "permuted-mnist", "--method", "ste", "--print-config", "--json").json
    assert (alone["continual"]["own"], alone["continual"]["against"]) == ("ste", [])
