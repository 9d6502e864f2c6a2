"""One run at a time in a folder; a killed process leaves no lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from onebit.__main__ import main
from onebit.errors import UsageError
from onebit.runs.folder import RunFolder
from onebit.train.lock import LOCK_FILE, lock_folder
from support.toy_training import CASES, DATA, Stop, build, stop_at_step

HOLDER = """
import sys
from onebit.train.lock import lock_folder
for line in sys.stdin:
    with lock_folder(line.rstrip("\\n")):
        print("held", flush=True)
        sys.stdin.readline()
    print("released", flush=True)
"""


class Holder:
    """Another process, which holds the lock of one folder at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def send(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        return self.process.stdout.readline().strip()

    @contextmanager
    def locks(self, folder: Path) -> Iterator[None]:
        assert self.send(str(folder)) == "held"
        try:
            yield
        finally:
            assert self.send("") == "released"


@pytest.fixture(scope="module")
def other() -> Iterator[Holder]:
    holder = Holder()
    yield holder
    holder.process.kill()
    holder.process.communicate()


def toy_flags(folder: Path) -> list[str]:
    flags = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--epochs", "1", "--batch_size", "256"]
    return ["train", *flags, "--device", "cpu", "--out", str(folder)]


def fit_toy(folder: Path) -> Any:
    return build(CASES["sign"]).fit(DATA, folder)


def test_a_locked_folder_is_refused(tmp_path: Path, other: Holder) -> None:
    with other.locks(tmp_path):
        with pytest.raises(UsageError, match="another process"):
            fit_toy(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ([], "."),
        (["--resume"], "."),
        (["--overwrite"], "."),
        (["--first_stage", "1", "--resume"], "stage1"),
        (["--seeds", "0,1", "--resume"], "seed-0"),
        (["--continual.tasks", "2", "--draws", "0"], "binaryconnect/task-1"),
    ],
    ids=["one", "resumed", "in place of another", "stage", "one of several seeds", "one of several tasks"],
)
def test_the_command_line_refuses_a_locked_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], part: str, other: Holder
) -> None:
    folder = tmp_path / "run"
    with other.locks(folder / part):
        assert main([*toy_flags(folder), *more]) == 2
        assert list(folder.rglob("*.ckpt")) == []
    assert "another process" in capsys.readouterr().err.splitlines()[-1]


def test_a_training_that_has_only_begun_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: Holder
) -> None:
    with other.locks(tmp_path / "run"):
        assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "another process" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).touch()  # of a killed process
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "no run there" in capsys.readouterr().err


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    killed = Holder()
    assert killed.send(str(tmp_path)) == "held"
    killed.process.kill()
    killed.process.communicate()
    assert (tmp_path / LOCK_FILE).exists()
    fit_toy(tmp_path)
    assert not (tmp_path / LOCK_FILE).exists()


def test_another_thread_gets_the_next_free_folder(tmp_path: Path) -> None:
    def first_free() -> str:
        with RunFolder(tmp_path / "x").free() as folder:
            return folder.path.name

    with lock_folder(tmp_path / "x"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(first_free).result() == "x-2"


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        build(CASES["sign"]).fit(DATA, tmp_path / "a" / "b", batch_size=1000)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_unlocks_its_folder(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, on_step=stop_at_step(6))
    assert not (tmp_path / LOCK_FILE).exists()
