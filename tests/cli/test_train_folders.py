"""Run folders that are taken: the next number, `--overwrite`, `--seeds`, several tasks; nothing is lost on the way."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from onebit.__main__ import main
from onebit.cli.seeds import parse_seeds, train_seeds
from onebit.data import load_dataset
from onebit.errors import CheckpointError, UsageError
from onebit.recipe import Recipe, build_recipe, read_settings
from onebit.runs.folder import ASIDE, MOVING, RunFolder
from onebit.train.printing import TrainingPrinter
from support.command_line import Onebit

NET = ["--dataset", "toy", "--model.widths", "64,4", "--batch_size", "256", "--threads", "1"]
SHORT = [*NET, "--epochs", "0.3"]
RUN_FILES = {"metrics.jsonl", "last.ckpt", "best.safetensors", "final.safetensors", "result.json", "log.txt"}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and one of two seeds."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(["train", *SHORT, "--out", str(folder / "run")]) == 0
    assert main(["train", *SHORT, "--seeds", "0,3", "--out", str(folder / "seeds")]) == 0
    return folder


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run with a file of the user in its folder."""
    folder = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def seeds(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run of two seeds."""
    return Path(shutil.copytree(finished / "seeds", tmp_path / "seeds"))


def test_default_folders_are_numbered(onebit: Onebit, here: Path) -> None:
    folders = [onebit("train", *SHORT, "--seed", seed, "--json").json["folder"] for seed in range(2)]
    assert folders == ["runs/toy-mlp", "runs/toy-mlp-2"]
    told = onebit("train", *SHORT, "--seeds", "0")
    assert "note: runs/toy-mlp " in told.err
    assert (here / "runs/toy-mlp-3/seed-0/result.json").exists()
    # to go on means the first one
    assert onebit("train", *SHORT, "--resume", "--json").json["folder"] == "runs/toy-mlp"


# ---------------------------------------------------------------------------------------------------------- overwrite
def test_overwrite_replaces_the_run_and_nothing_else(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "recipe.yaml").write_text("{}")
    for link in ("tensorboard", "seed-0"):  # replaced, not followed
        (trained / link).symlink_to(elsewhere)
    done = onebit("train", *SHORT, "--seed", "7", "--out", trained, "--overwrite")
    assert done.status == 0, done.err
    files = content(trained)
    assert yaml.safe_load(files.pop("recipe.yaml"))["seed"] == 7
    assert files.pop("notes.txt") == b"mine"
    assert files.keys() == RUN_FILES
    assert (files["log.txt"].count(b"training, "), files["metrics.jsonl"].count(b"\n")) == (1, 1)
    assert content(elsewhere) == {"recipe.yaml": b"{}"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer.nesterov", "true"],  # refused before the data are read
        ["--data", "nowhere.npz", "--dataset", "arrays"],
        ["--init_from", "{run}"],  # which is what would be replaced
        ["--teacher", "{run}/best.safetensors"],
    ],
)
def test_a_refused_training_keeps_the_run(onebit: Onebit, trained: Path, flags: list[str]) -> None:
    before = content(trained)
    words = [flag.format(run=trained) for flag in flags]
    refused = onebit("train", *SHORT, "--seed", "7", *words, "--out", trained, "--overwrite")
    assert (refused.status, bool(refused.line)) == (2, True)
    assert content(trained) == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, UsageError])
def test_without_a_step_the_old_run_is_kept_and_no_new_folder_left(
    onebit: Onebit, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    before = content(trained)

    def stopped(*_: object, folder: Path, **__: object) -> None:
        for name in ("metrics.jsonl", "data.json"):
            (folder / name).write_text("")
        raise stop

    monkeypatch.setattr("onebit.runs.training.fit", stopped)
    status = 130 if stop is KeyboardInterrupt else 2
    assert onebit("train", *SHORT, "--out", trained, "--overwrite").status == status
    assert content(trained) == before
    for more in ([], ["--continual.tasks", "2"], ["--method", "bnn", "--first_stage", "1"]) if status == 2 else ():
        assert onebit("train", *SHORT, *more, "--out", tmp_path / "new").status == 2
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("half", [False, True])
def test_what_a_killed_training_left_aside_comes_back(onebit: Onebit, trained: Path, half: bool) -> None:
    before = content(trained)
    RunFolder(trained)._set_aside()
    assert content(trained).keys() > {f"{ASIDE}/last.ckpt", "notes.txt"}
    if half:  # of it was moved
        (trained / ASIDE).rename(trained / MOVING)
        (trained / MOVING / "last.ckpt").rename(trained / "last.ckpt")
    else:
        (trained / "log.txt").write_text("new")
    assert onebit("train", *SHORT, "--out", trained).status == 2
    assert onebit("train", *SHORT, "--seed", "7", "--out", trained, "--resume").status == 2  # it was trained with 0
    assert content(trained) == before
    assert onebit("train", "--resume", trained).status == 0


def test_overwrite_replaces_seeds_and_tasks(onebit: Onebit, seeds: Path) -> None:
    assert onebit("train", *SHORT, "--seeds", "5", "--out", seeds, "--overwrite").status == 0
    assert {path.name for path in seeds.iterdir()} == {"seed-0", "seed-3", "seed-5", "seeds.json"}
    tasks = ["--continual.tasks", "2", "--validation", "0"]
    assert onebit("train", *SHORT, *tasks, "--out", seeds, "--overwrite").status == 0
    assert not list(seeds.glob("seed*"))
    assert (seeds / "continual.json").exists()
    assert onebit("train", *SHORT, "--out", seeds, "--overwrite").status == 0
    assert {path.name for path in seeds.iterdir()} == {*RUN_FILES, "recipe.yaml"}


def test_only_the_named_seeds_are_replaced(onebit: Onebit, seeds: Path) -> None:
    before = content(seeds)
    refused = onebit("train", *SHORT, "--lr", "0.5", "--seeds", "0", "--out", seeds, "--overwrite")
    assert (refused.status, str(seeds / "seed-3") in refused.err) == (2, True)
    assert content(seeds) == before
    done = onebit("train", *SHORT, "--seeds", "0", "--out", seeds, "--overwrite", "--json")
    assert done.json["seeds"] == [0, 3]
    after = content(seeds)
    assert all(after[name] == text for name, text in before.items() if name.startswith("seed-3/"))
    assert after["seed-0/result.json"] != before["seed-0/result.json"]  # which has its time


def test_overwrite_touches_nothing_but_run_folders(onebit: Onebit, tmp_path: Path) -> None:
    project, recipes, killed = (tmp_path / name for name in ("project", "recipes", "killed"))
    for folder in (project, recipes / "wandb", killed):  # a hand-written recipe, and curves of other programs
        folder.mkdir(parents=True)
    (project / "result.json").write_text("{}")
    (recipes / "recipe.yaml").write_text("dataset: toy")
    before = content(tmp_path)
    for out in (project, project / "result.json", recipes):
        refused = onebit("train", *SHORT, "--out", out, "--overwrite")
        assert (refused.status, str(out) in refused.line) == (2, True)
    assert onebit("train", *SHORT, "--batch_size", "5000", "--out", project).status == 2
    assert content(tmp_path) == before
    assert (recipes / "wandb").is_dir()
    for name in ("recipe.yaml", "log.txt"):  # before its first step
        (killed / name).write_text("")
    for folder in (tmp_path / "new", killed):
        assert onebit("train", *SHORT, "--out", folder, "--overwrite").status == 0
        assert (folder / "result.json").exists()


# -------------------------------------------------------------------------------------------------------------- seeds
def test_each_seed_has_a_folder_and_the_summary_says_what_they_reached(onebit: Onebit, seeds: Path) -> None:
    summary = json.loads((seeds / "seeds.json").read_text())
    assert sorted(path.name for path in seeds.iterdir()) == ["seed-0", "seed-3", "seeds.json"]
    runs = [json.loads((seeds / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 3)]
    accuracies = [run["test"]["binary"]["accuracy"] for run in runs]
    assert (summary["runs"], summary["seeds"]) == (runs, [0, 3])
    assert accuracies[0] != accuracies[1]
    assert summary["test"].keys() == {"binary", "latent"}
    binary = summary["test"]["binary"]
    assert (binary["n"], binary["accuracies"]) == (2, accuracies)
    expected = statistics.mean(accuracies), statistics.stdev(accuracies)
    assert (binary["accuracy"], binary["sd"]) == pytest.approx(expected)
    alone = onebit("train", *SHORT, "--seed", "3", "--out", seeds.parent / "alone", "--json")
    assert alone.json["test"] == runs[1]["test"]


def test_resuming_leaves_out_what_is_done_and_keeps_the_others(onebit: Onebit, seeds: Path) -> None:
    kept = (seeds / "seed-0" / "last.ckpt").stat().st_mtime_ns
    shutil.rmtree(seeds / "seed-3")
    done = onebit("train", "--seeds", "0,3-4", "--resume", seeds)
    assert "seed 0 (1 of 3, already trained)" in done.err
    assert (seeds / "seed-0" / "last.ckpt").stat().st_mtime_ns == kept
    summary = json.loads((seeds / "seeds.json").read_text())
    accuracies = [run["test"]["binary"]["accuracy"] for run in summary["runs"]]
    mean, sd = statistics.mean(accuracies), statistics.stdev(accuracies)
    each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    expected = f"test accuracy {100 * mean:.2f} ± {100 * sd:.2f} % with binary weights (n = 3: {each})"
    assert expected in done.out.splitlines()
    assert onebit("train", "--seeds", "3", "--resume", seeds, "--json").json == summary
    assert onebit("train", *SHORT, "--seeds", "1", "--out", seeds, "--json").json["seeds"] == [0, 1, 3, 4]


def test_folders_that_are_used_or_of_another_recipe_are_refused(onebit: Onebit, seeds: Path) -> None:
    before = content(seeds)
    for words, noun in (
        ([*SHORT, "--seeds", "0", "--out"], "seed-0"),
        ([*SHORT, "--seeds", "7", "--lr", "0.5", "--out"], "optimizer.lr"),
        (["--seeds", "0", "--optimizer.lr", "0.5", "--resume"], "optimizer.lr"),
        (["--seeds", "0", "--epochs", "9", "--resume"], "epochs"),
        (["--resume"], "seeds"),
    ):
        assert noun in onebit("train", *words, seeds).line
    for verb in ("evaluate", "verify", "inspect", "pack -o x.1bit"):
        assert "weights" in onebit(*verb.split(), seeds).line
    assert content(seeds) == before
    (seeds / "seed-3" / "result.json").write_text("{")
    assert "result.json" in onebit("train", "--seeds", "3", "--resume", seeds).line


def test_ctrl_c_says_how_to_go_on(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all seeds, and with the code of a model of the user's own."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onebit.runs.training.fit", interrupted)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    code = f"{tmp_path / 'nets.py'}:net"
    done = onebit("train", "--model", code, "--dataset", "toy", "--seeds", "3,5", "--out", tmp_path / "run")
    assert done.status == 130
    assert done.err.endswith(f"continue with: onebit train --model {code} --seeds 3,5 --resume {tmp_path / 'run'}\n")


def test_finished_seeds_are_of_the_same_data(seeds: Path, tmp_path: Path) -> None:
    data = load_dataset("toy")
    recipe = build_recipe(read_settings(seeds / "seed-0" / "recipe.yaml"))
    other = replace(data, note="a copy stored as JPEG")
    with pytest.raises(CheckpointError, match="other data"):
        train_seeds(recipe, [0], RunFolder(seeds, resume=True), data=other, train=pytest.fail)
    run, own = RunFolder(tmp_path).seed(0).path, Recipe(dataset="own")
    run.mkdir()
    (run / "recipe.yaml").write_text(own.to_yaml())
    (run / "result.json").write_text("{}")
    (run / "data.json").write_text(json.dumps({"directory": "/own", "digest": "of other data"}))
    with pytest.raises(CheckpointError, match="other images"):
        train_seeds(own, [0, 1], RunFolder(tmp_path, resume=True), data=data, train=pytest.fail)


def test_a_finished_seed_is_about_the_weights_in_its_folder(onebit: Onebit, seeds: Path) -> None:
    shutil.copy(seeds / "seed-3" / "best.safetensors", seeds / "seed-0")
    refused = onebit("train", "--seeds", "0", "--resume", seeds)
    assert (refused.status, "other weights" in refused.line) == (2, True)
    result = json.loads((seeds / "seed-0" / "result.json").read_text())
    del result["sha256"]  # as earlier versions wrote it
    for seed in (0, 3):
        (seeds / f"seed-{seed}" / "result.json").write_text(json.dumps(result))
    assert onebit("train", "--seeds", "0", "--resume", seeds).status == 0


def test_seeds_are_read_or_refused() -> None:
    for text, expected in (("0-4", [0, 1, 2, 3, 4]), ("0,3,7", [0, 3, 7]), ("5", [5]), ("7, 0-1,0", [7, 0, 1])):
        assert parse_seeds(text) == expected
    for text in ("", "a", "3-1", "0-", "0,,1", "9" * 40):
        with pytest.raises(UsageError, match="--seeds"):
            parse_seeds(text)


# -------------------------------------------------------------------------------------------------------------- tasks
TASKS = ["mnist-permuted", "--dataset", "toy", "--model.widths", "[64,16,4]", "--continual.tasks", "2", "--draws", "2"]
TASKS += ["--epochs", "0.1", "--threads", "1"]
HEADING = re.compile(r"(bayesbinn|ste), (ensemble:2|binary) weights, BatchNorm of (the latest|each) task:")


def test_tasks_end_in_a_table_and_a_picture(onebit: Onebit, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = onebit("train", *TASKS, "--out", folder)
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

    assert "--resume" in onebit("train", *TASKS, "--out", folder).line
    assert "optimizer.lr" in onebit("train", *TASKS, "--optimizer.lr", "0.5", "--out", folder, "--resume").line
    assert onebit("train", "--resume", folder).out == done.out
    own = onebit("evaluate", folder / "ste" / "task-2", "--json").json
    second = lines[lines.index("ste, binary weights, BatchNorm of the latest task:") + 3].split()
    assert (second[:3], second[5]) == (["after", "task", "2"], f"{100 * own['accuracy']:.2f}")


@pytest.mark.usefixtures("no_ink")
def test_several_seeds_of_several_tasks(onebit: Onebit, tmp_path: Path) -> None:
    folder, report = tmp_path / "all", tmp_path / "report"
    flags = [*TASKS, "--continual.against", "[]"]
    done = onebit("train", *flags, "--seeds", "0-1", "--out", folder)
    assert "with binary weights (n = 2: " in done.out
    assert done.out.endswith(f"onebit report {folder} -o DIR compares them\n")
    rows = [line for line in onebit("report", folder, "-o", report).out.splitlines() if line.startswith("after task")]
    assert [" ± " in row for row in rows] == [True] * 6
    assert (report / "tasks-mnist-permuted.png").exists()
    as_json = onebit("report", folder, "-o", report, "--json").json
    assert as_json["rows"] == []
    assert [len(row["seen"]) for row in as_json["tasks"][0]["table"]] == [1, 2] * 3
    again = onebit("train", *flags, "--seeds", "1", "--out", folder, "--resume")
    assert again.out == done.out
    assert "seed 1 (1 of 1, already trained)" in again.err
    task = folder / "seed-0" / "bayesbinn" / "task-1" / "result.json"
    task.write_text("{")
    assert str(task) in onebit("train", *flags, "--seeds", "1", "--out", folder, "--resume").line
    (folder / "seed-0" / "continual.json").unlink()
    assert "n = 1" in onebit("train", *flags, "--seeds", "1", "--out", folder, "--resume").out


def test_interrupted_tasks_are_not_overwritten(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "all" / "seed-0"

    def stop(self: TrainingPrinter, done: int, total: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingPrinter, "step", stop)
        stopped = onebit("train", *TASKS, "--epochs", "2", "--out", folder)
    assert (stopped.status, "continue with: onebit train --resume" in stopped.err) == (130, True)
    assert not (folder / "continual.json").exists()
    assert (folder / "bayesbinn" / "task-1" / "last.ckpt").exists()
    before = content(folder)
    for words, noun in (
        (["train", "digits-smoke", "--out", folder], "--overwrite"),
        (["train", "mnist-permuted", "--out", folder], "--overwrite"),
        (["train", "digits-smoke", "--out", folder, "--resume"], "the run has"),
        (["train", "digits-smoke", "--seeds", "0-1", "--out", folder.parent], "seed-0"),
        (["report", folder, "-o", tmp_path / "report"], "continual.json"),
    ):
        refused = onebit(*words)
        assert (refused.status, noun in refused.line) == (2, True), words
    assert not (tmp_path / "report").exists()
    assert content(folder) == before


def test_a_recipe_becomes_a_continual_one(onebit: Onebit) -> None:
    task = onebit("train", "--task", "permuted-mnist", "--print-config")
    assert task.out == onebit("train", "mnist-permuted", "--print-config").out
    recipe = onebit("train", "mnist-ste", "--task", "permuted-mnist", "--print-config", "--json").json
    assert recipe["continual"] == {"tasks": 5, "prior": True, "against": [], "own": None}  # STE is its own method
    assert (recipe["name"], recipe["measured"]) == ("mnist-ste", "")
    for method, against in (("ste", []), ("binaryconnect", ["ste"])):  # which names its folder
        alone = onebit("train", "--task", "permuted-mnist", "--method", method, "--print-config", "--json").json
        assert (alone["continual"]["own"], alone["continual"]["against"]) == (method, against)
