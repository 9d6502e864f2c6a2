"""The verbs that an installation without the extra `train` has, which brings no torch and no yaml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import onebit

EXTRAS = ("torch", "yaml", "pooch", "rich", "matplotlib")
SCRIPT = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
sys.modules |= dict.fromkeys({EXTRAS!r})
from onebit.__main__ import main
outcomes = []
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            status = main(words)
        except SystemExit as left:
            status = left.code
    outcomes.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(outcomes))
"""


def run_base(*commands: list[str]) -> list[tuple[int, str, str]]:
    """(status, stdout, stderr) of each command, in one process without the extras."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True, check=True, timeout=120
    )
    return [tuple(outcome) for outcome in json.loads(done.stdout)]


def test_what_the_base_installation_can_do_works(packed_file: Path, tmp_path: Path) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    net = str(packed_file)
    commands = [
        ["--help"],
        ["predict", net, str(tmp_path / "a.png")],
        ["inspect", net],
        ["evaluate", net],
        ["bench", net, "--rounds", "1", "--batches", "1", "--seconds", "0.001"],
        ["data", "mnist-sample"],
        ["list"],
        ["list", "datasets"],
        ["list", "exports"],
        ["train", "--help"],
        ["completion", "bash"],
    ]
    for words, (status, out, err) in zip(commands, run_base(*commands), strict=True):
        assert status == 0, (words, err)
        assert out


def test_what_needs_the_extra_says_so_in_one_line() -> None:
    commands = {
        "list recipes": "yaml",
        "list methods": "yaml",
        "list models": "torch",
        "train mnist-fast": "yaml",
        "train mnist-fast --help": "yaml",
        "pack run -o net.1bit": "torch",
    }
    for line, (status, out, err) in zip(commands, run_base(*map(str.split, commands)), strict=True):
        needed = f"onebit: `onebit {line.split()[0]}` needs {commands[line]}: pip install 'onebit[train]'\n"
        assert (status, out, err) == (2, "", needed)


def test_public_names_that_need_the_extra_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onebit._HOME, "pack", "module_of_an_extra")
    monkeypatch.delitem(vars(onebit), "pack", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"onebit\.pack needs .*onebit\[train\]"):
        _ = onebit.pack
