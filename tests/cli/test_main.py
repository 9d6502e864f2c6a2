"""Exit status and work of a verb whose output nobody reads, or cannot be written."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from onebit.__main__ import main
from onebit.cli.main import run_program
from onebit.cli.output import download_progress
from onebit.errors import UsageError
from onebit.evaluation.loss_table import LOSSES
from onebit.recipe import Recipe
from support.command_line import command

VERB = """
import os, sys
from onebit.cli.main import run_program
from onebit.cli.output import answer
from onebit.common.progress import Progress, say, shows_progress

def verb(argv):
    assert not shows_progress(None)
    with open(argv[0], "w") as done:
        for _ in range(3):
            say("note " * 5_000)
            Progress("work", "steps").print("epoch")
            Progress("work", "steps").update(1, 2)
        answer("answer " * 50_000)
        done.write("done")
    return 1

sys.exit(run_program(verb, sys.argv[1:], name="a test"))
"""
needs_full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


def broken_pipe() -> int:
    """The end of a pipe that is written to, whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(
    "streams",
    [
        {"stdout": broken_pipe, "stderr": None},  # `onebit verify RUN | head -1` says that a claim failed
        {"stdout": None, "stderr": broken_pipe},
        pytest.param({"stdout": None, "stderr": full_disk}, marks=needs_full_disk),
    ],
)
def test_what_nobody_reads_stops_no_work_and_leaves_the_status(tmp_path: Path, streams: dict) -> None:
    opened = {name: subprocess.DEVNULL if make is None else make() for name, make in streams.items()}
    found = subprocess.run([sys.executable, "-c", VERB, str(tmp_path / "done")], **opened, timeout=60)
    assert (found.returncode, (tmp_path / "done").read_text()) == (1, "done")


@pytest.mark.skipif(os.name != "posix", reason="descriptors as on POSIX")
def test_without_stderr_the_answer_is_the_only_output(tmp_path: Path) -> None:
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", VERB, str(tmp_path / "done")]
    found = subprocess.run(shell, stdout=subprocess.PIPE, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (1, "answer " * 50_000 + "\n")


@pytest.mark.parametrize(("arguments", "status"), [(["list", "recipes"], 0), ([], 2)])
def test_an_answer_whose_reader_has_gone_is_no_error(arguments: list[str], status: int) -> None:
    done = subprocess.run(command(*arguments), stdout=broken_pipe(), stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (status, b"")


@needs_full_disk
def test_an_answer_on_a_full_disk_is_one_line() -> None:
    done = subprocess.run(command("--help"), stdout=full_disk(), stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_closed_standard_input_is_one_line() -> None:
    line = f"{shlex.join(command('predict', 'mnist-mlp', '-'))} <&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_an_answer_is_printed_whatever_the_encoding() -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([*command(), "--help"], capture_output=True, env=ascii_only, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.startswith(b"usage: onebit VERB \\u2026")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "onebit: interrupted\n"),
        (UsageError("wrong\nword"), 2, "onebit: wrong word\n"),
        (ValueError("a defect"), 2, "onebit: ValueError: a defect"),
        (ModuleNotFoundError(name="onnx"), 2, "onebit: `a test` needs onnx: pip install 'onebit[export]'\n"),
        (ModuleNotFoundError(name="wandb"), 2, "onebit: `a test` needs wandb: pip install 'onebit[wandb]'\n"),
        (FileNotFoundError(2, "no such file", "a"), 2, "onebit: a: no such file\n"),
    ],
)
def test_any_error_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str
) -> None:
    def verb(argv: list[str]) -> int:
        raise error

    assert run_program(verb, [], name="a test") == status
    found = capsys.readouterr()
    assert (found.out, found.err.count("\n")) == ("", 1)
    assert found.err.startswith(said)
    monkeypatch.setenv("ONEBIT_DEBUG", "1")
    assert run_program(verb, [], name="a test") == status
    assert ("Traceback" in capsys.readouterr().err) == (status == 2)


def test_help_works_without_docstrings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As under python -OO."""
    monkeypatch.setattr(Recipe, "__doc__", None)
    monkeypatch.setattr(LOSSES["squared_hinge"], "__doc__", None)
    assert [main(line.split()) for line in ("train --help", "list losses")] == [0, 0]
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("--batch_size", "squared_hinge"))


def test_loading_says_once_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with download_progress() as told:
        for done in (1, 2):
            told("decoding images of photos", done, 2)
    assert capsys.readouterr().err == "decoding images of photos\n"
