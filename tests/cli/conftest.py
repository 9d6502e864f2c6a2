"""A small finished run and the command line, as a user runs them."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from onebit.__main__ import main
from onebit.data import DATASETS
from support.command_line import SMALL, Onebit, Outcome

SAMPLE = DATASETS["mnist-sample"]
READ_ONCE = replace(SAMPLE, read=functools.cache(SAMPLE.read))


@pytest.fixture(autouse=True)
def quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of commands read the sample of MNIST, and write small files, which need not be on the disk."""
    monkeypatch.setitem(DATASETS, "mnist-sample", READ_ONCE)
    monkeypatch.setattr("onebit.common.files._fsync", lambda path, flags: None)


@pytest.fixture
def onebit(capsys: pytest.CaptureFixture[str]) -> Onebit:
    """Run one command in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `digits-smoke` with 32 hidden units."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    assert main(["train", "digits-smoke", *SMALL, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(run_folder, tmp_path / "copied"))


@pytest.fixture(scope="session")
def packed_file(run_folder: Path) -> Path:
    """The run, packed."""
    path = run_folder.parent / "net.1bit"
    assert main(["pack", str(run_folder), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without a single binary layer."""
    folder = tmp_path_factory.mktemp("runs") / "real"
    flags = ["--method", "real", "--epochs", "0.2", "--out", str(folder)]
    assert main(["train", "digits-smoke", *SMALL, *flags]) == 0
    return folder
