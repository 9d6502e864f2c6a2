"""What the command line says while something goes on."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from cli_support import command

from onebit.cli.output import Progress, download_progress
from onebit.common import progress


def test_the_rate_is_that_since_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1000.1, 1002.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = Progress("run", "steps")  # made long before the first step: data are read, a net is compiled
    bar.update(1, 100)
    assert [bar._rate(10), bar._rate(21)] == ["", "10 steps/s"]


def test_loading_says_once_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with download_progress() as told:
        for done in (1, 2):
            told("decoding images of photos", done, 2)
    assert capsys.readouterr().err == "decoding images of photos\n"


def test_a_closed_standard_input_is_one_line() -> None:
    line = f"{shlex.join(command('predict', 'mnist-mlp', '-'))} <&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
