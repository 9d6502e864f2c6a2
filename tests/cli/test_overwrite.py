"""Run folders that are taken: the next number, or `--overwrite`, which loses nothing before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from onebit.__main__ import main
from onebit.errors import UsageError
from onebit.runs import folders, run
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
    assert main(["train", *SHORT, "--seeds", "0-1", "--out", str(folder / "seeds")]) == 0
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


def test_default_folders_are_numbered(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [onebit("train", *SHORT, "--seed", seed, "--json").json["folder"] for seed in range(3)]
    assert folders == ["runs/toy-mlp", "runs/toy-mlp-2", "runs/toy-mlp-3"]
    told = onebit("train", *SHORT, "--seeds", "0")
    assert told.status == 0
    assert "note: runs/toy-mlp holds a run already" in told.err
    assert (tmp_path / "runs/toy-mlp-4/seed-0/result.json").exists()
    assert onebit("train", *SHORT, "--json").json["folder"] == "runs/toy-mlp-5"
    # to go on means the first one
    assert onebit("train", *SHORT, "--resume", "--json").json["folder"] == "runs/toy-mlp"


def test_overwrite_replaces_the_run_and_nothing_else(onebit: Onebit, trained: Path) -> None:
    done = onebit("train", *SHORT, "--seed", "7", "--out", trained, "--overwrite")
    assert done.status == 0, done.err
    files = content(trained)
    assert yaml.safe_load(files.pop("recipe.yaml"))["seed"] == 7
    assert files.pop("notes.txt") == b"mine"
    assert files.keys() == RUN_FILES
    assert files["log.txt"].count(b"training, ") == 1
    assert files["metrics.jsonl"].count(b"\n") == 1


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
    assert (refused.status, "Traceback" in refused.err) == (2, False)
    assert content(trained) == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_the_old_run_is_kept_without_a_step(
    onebit: Onebit, trained: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    before = content(trained)

    def stopped(*_: object, folder: Path, **__: object) -> None:
        (folder / "metrics.jsonl").write_text("")
        raise stop

    monkeypatch.setattr(run, "fit_recipe", stopped)
    assert onebit("train", *SHORT, "--out", trained, "--overwrite").status in (2, 130)
    assert content(trained) == before


def test_no_folder_is_left_without_a_step(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, folder: Path, **__: object) -> None:
        for name in ("metrics.jsonl", "data.json"):
            (folder / name).write_text("")
        raise UsageError("images of another size")

    monkeypatch.setattr(run, "fit_recipe", stopped)
    for more in ([], ["--continual.tasks", "2"], ["--method", "bnn", "--first_stage", "1"]):
        assert onebit("train", *SHORT, *more, "--out", tmp_path / "run").status == 2
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("half", [False, True])
def test_what_a_killed_training_left_aside_comes_back(onebit: Onebit, trained: Path, half: bool) -> None:
    before = content(trained)
    folders._set_aside([trained])
    assert content(trained).keys() > {f"{folders.ASIDE}/last.ckpt", "notes.txt"}
    if half:  # of it was moved
        (trained / folders.ASIDE).rename(trained / folders.MOVING)
        (trained / folders.MOVING / "last.ckpt").rename(trained / "last.ckpt")
    else:
        (trained / "log.txt").write_text("new")
    assert onebit("train", *SHORT, "--out", trained).status == 2
    assert onebit("train", *SHORT, "--seed", "7", "--out", trained, "--resume").status == 2  # it was trained with 0
    assert content(trained) == before
    assert onebit("train", "--resume", trained).status == 0


def test_overwrite_replaces_seeds_and_tasks(onebit: Onebit, seeds: Path) -> None:
    folder = seeds
    assert onebit("train", *SHORT, "--seeds", "5", "--out", folder, "--overwrite").status == 0
    assert {path.name for path in folder.iterdir()} == {"seed-0", "seed-1", "seed-5", "seeds.json"}
    tasks = ["--continual.tasks", "2", "--validation", "0"]
    assert onebit("train", *SHORT, *tasks, "--out", folder, "--overwrite").status == 0
    assert not list(folder.glob("seed*"))
    assert (folder / "continual.json").exists()
    assert onebit("train", *SHORT, "--out", folder, "--overwrite").status == 0
    assert {path.name for path in folder.iterdir()} == {*RUN_FILES, "recipe.yaml"}


def test_only_the_named_seeds_are_replaced(onebit: Onebit, seeds: Path) -> None:
    folder = seeds
    before = content(folder)
    refused = onebit("train", *SHORT, "--lr", "0.5", "--seeds", "0", "--out", folder, "--overwrite")
    assert refused.status == 2
    assert f"{folder / 'seed-1'}: was trained with optimizer.lr" in refused.err
    assert content(folder) == before
    done = onebit("train", *SHORT, "--seeds", "0", "--out", folder, "--overwrite", "--json")
    assert done.json["seeds"] == [0, 1]
    assert content(folder / "seed-1") == {
        name.removeprefix("seed-1/"): text for name, text in before.items() if name.startswith("seed-1/")
    }
    assert content(folder)["seed-0/result.json"] != before["seed-0/result.json"]  # which has its time


def test_overwrite_touches_nothing_but_run_folders(onebit: Onebit, tmp_path: Path) -> None:
    other = tmp_path / "project"
    other.mkdir()
    (other / "result.json").write_text("{}")
    before = content(other)
    recipes = tmp_path / "recipes"  # with a hand-written one, and curves of other programs
    (recipes / "wandb").mkdir(parents=True)
    (recipes / "recipe.yaml").write_text("dataset: toy")
    assert onebit("train", *SHORT, "--out", recipes, "--overwrite").status == 2
    assert (recipes / "wandb").is_dir()
    for folder in (other, other / "result.json"):
        refused = onebit("train", *SHORT, "--out", folder, "--overwrite")
        assert refused.status == 2
        assert str(folder) in refused.line
    assert onebit("train", *SHORT, "--batch_size", "5000", "--out", other).status == 2
    assert content(other) == before
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()  # before its first step
    for name in ("recipe.yaml", "log.txt"):
        (tmp_path / "killed" / name).write_text("")
    for folder in (tmp_path / "empty", tmp_path / "new", tmp_path / "killed"):
        assert onebit("train", *SHORT, "--out", folder, "--overwrite").status == 0
        assert (folder / "result.json").exists()


def test_a_link_in_a_run_folder_is_replaced_not_followed(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "recipe.yaml").write_text("{}")
    for link in ("tensorboard", "seed-0"):
        (trained / link).symlink_to(elsewhere)
    assert onebit("train", *SHORT, "--out", trained, "--overwrite").status == 0
    assert not any((trained / link).is_symlink() for link in ("tensorboard", "seed-0"))
    assert content(elsewhere) == {"recipe.yaml": b"{}"}
