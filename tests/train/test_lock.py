"""One training at a time in a run folder; what a killed one left there is no obstacle."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import onebit
from onebit.__main__ import main
from onebit.data import Dataset
from onebit.errors import UsageError
from onebit.recipe import build_recipe
from onebit.runs.run import start_folder, train_run
from onebit.train.lock import LOCK_FILE, lock_folder
from support.toy_training import CASES, DATA, TOY, Stop, build, everything, stop_at_step

HOLDER = """
import sys
from pathlib import Path
from onebit.train.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def toy_flags(folder: Path) -> list[str]:
    flags = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--epochs", "1", "--batch_size", "256"]
    return ["train", *flags, "--device", "cpu", "--out", str(folder)]


def fit_toy(folder: Path, data: Dataset) -> Any:
    return build(CASES["sign"]).fit(DATA, folder)


def fit_trainer(folder: Path, data: Dataset) -> Any:
    trainer = onebit.Trainer("mlp", options={"widths": (64, 8, 4)}, epochs=0.5, batch_size=32)
    return trainer.fit(data, folder=folder)


def stages(folder: Path, data: Dataset) -> Any:
    recipe = build_recipe({**TOY, "first_stage": 1.0})
    start_folder(folder.parent, recipe, resume=True)
    return train_run(recipe, data, folder.parent, resume=True)


@pytest.mark.parametrize(
    ("train", "part"), [(fit_toy, "run"), (fit_trainer, "run"), (stages, "stage1")], ids=["fit", "Trainer", "stage"]
)
def test_a_folder_that_is_trained_into_is_refused(
    tmp_path: Path, data: Dataset, train: Callable[[Path, Dataset], Any], part: str
) -> None:
    folder = tmp_path / part
    with held(folder):
        with pytest.raises(UsageError, match="another process"):
            train(folder, data)
        assert [path.name for path in folder.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ([], "."),
        (["--seeds", "0,1"], "."),
        (["--seeds", "0,1"], "seed-0"),
        (["--continual.tasks", "2", "--draws", "0"], "."),
        (["--continual.tasks", "2", "--draws", "0"], "binaryconnect/task-1"),
    ],
    ids=["one", "seeds", "one of several seeds", "tasks", "one of several tasks"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_the_command_line_refuses_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], part: str, resume: bool
) -> None:
    folder = tmp_path / "run"
    with held(folder / part):
        assert main([*toy_flags(folder), *more, *(["--resume"] if resume else [])]) == 2
        assert list(folder.rglob("*.ckpt")) == []
    assert "another process" in capsys.readouterr().err.splitlines()[-1]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with held(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / LOCK_FILE).exists()
        fit_toy(tmp_path, DATA)
    assert not (tmp_path / LOCK_FILE).exists()


def test_of_two_threads_one_trains(tmp_path: Path) -> None:
    refused: list[UsageError] = []

    def train() -> None:
        try:
            fit_toy(tmp_path, DATA)
        except UsageError as error:
            refused.append(error)

    with lock_folder(tmp_path):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert refused


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        build(CASES["sign"]).fit(DATA, tmp_path / "a" / "b", batch_size=1000)
    assert list(tmp_path.iterdir()) == []


def test_after_a_training_the_folder_is_free_again(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, on_step=stop_at_step(6))
    assert not (tmp_path / LOCK_FILE).exists()
    build(CASES["sign"]).fit(DATA, tmp_path, resume=True)
    build(CASES["sign"]).fit(DATA, tmp_path / "straight")
    assert everything(tmp_path) == everything(tmp_path / "straight")
