"""What the command line says while something goes on."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from cli_support import command

from onebit.cli.output import download_progress


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
