"""`onebit train` with several tasks: what it prints and writes, resuming, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import Outcome

Onebit = Callable[..., Outcome]
TASKS = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--continual.tasks", "2", "--draws", "2"]
SHORT = [*TASKS, "--epochs", "0.1", "--threads", "1"]
ROW = re.compile(
    r"(bayesbinn|ste) after task (\d): ((?: +\d+\.\d\d)+)  mean \d+\.\d\d % "
    r"\((ensemble:2|binary) weights, BatchNorm of (the latest|each) task\)"
)


def test_a_table_and_a_picture_and_no_second_run_in_the_same_folder(onebit: Onebit, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = onebit("train", "mnist-permuted", *SHORT, "--out", folder)
    assert done.status == 0, done.err
    found = [ROW.fullmatch(line) for line in done.out.splitlines()[1:-1]]
    assert all(found)
    table = [(row[1], row[2], len(row[3].split()), row[4], row[5]) for row in found if row]
    kinds = [("bayesbinn", "ensemble:2", "the latest")]
    kinds += [(method, "binary", bn) for method in ("bayesbinn", "ste") for bn in ("the latest", "each")]
    assert table == [(method, task, int(task), mode, bn) for method, mode, bn in kinds for task in "12"]
    assert (folder / "continual.png").read_bytes().startswith(b"\x89PNG")
    assert "bayesbinn after task 2" in (folder / "log.txt").read_text()

    refused = onebit("train", "mnist-permuted", *SHORT, "--out", folder)
    assert refused.status == 2
    assert "holds a run already: go on with --resume" in refused.line
    other = onebit("train", "mnist-permuted", *SHORT, "--optimizer.lr", "0.5", "--out", folder, "--resume")
    assert "was trained with optimizer.lr = 0.001, now it is 0.5" in other.line
    again = onebit("train", "mnist-permuted", *SHORT, "--out", folder, "--resume")
    assert again.out == done.out

    own = onebit("evaluate", folder / "ste" / "task-2", "--json").json
    row = next(r for r in found if r and (r[1], r[2], r[5]) == ("ste", "2", "the latest"))
    assert f"{100 * own['accuracy']:.2f}" == row[3].split()[1]


def test_several_seeds_of_several_tasks(onebit: Onebit, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    flags = ["mnist-permuted", *SHORT, "--continual.against", "[]"]
    done = onebit("train", *flags, "--seeds", "0-1", "--out", folder)
    assert done.status == 0, done.err
    assert "with binary weights (n = 2: " in done.out
    assert done.out.endswith(f"tables and pictures in {folder}/seed-N\n")
    plain = onebit("train", "digits-smoke", "--out", folder / "seed-0")
    assert "holds a run already" in plain.line


def test_a_task_without_a_file_is_its_recipe(onebit: Onebit) -> None:
    task = onebit("train", "--task", "permuted-mnist", "--print-config")
    assert task.out == onebit("train", "mnist-permuted", "--print-config").out


def test_a_recipe_becomes_a_continual_one(onebit: Onebit) -> None:
    recipe = onebit("train", "mnist-ste", "--task", "permuted-mnist", "--print-config", "--json").json
    assert recipe["continual"] == {"tasks": 5, "prior": True, "against": ["ste"]}
    assert (recipe["name"], recipe["measured"]) == ("mnist-ste", "not yet trained")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--continual.tasks", "1"], "continual.tasks must be 0, or from 2 to 999, got 1"),
        (["--continual.against", '["stee"]'], "unknown method 'stee'; did you mean 'ste'?"),
        (["--first_stage", "1"], "first_stage does not go with several tasks: leave it out"),
        (["--permutation", "3"], "permutation does not go with several tasks: leave it out"),
        (["--teacher", "nowhere"], "nowhere: no such run folder or file"),
        (["--permutation", "-1"], "permutation must be 0 or more, got -1"),
        (["--draws", "-1"], "draws must be from 0 to 10000, got -1"),
    ],
)
def test_settings_that_make_no_sense(onebit: Onebit, tmp_path: Path, flags: list[str], message: str) -> None:
    done = onebit("train", "mnist-permuted", *SHORT, *flags, "--out", tmp_path / "run")
    assert done.status == 2
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
