"""The examples run as their users run them, and stay short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from onebit.__main__ import main
from onebit.train.run import open_run

EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_LINES = 40


def run_example(name: str, *arguments: object) -> str:
    """What an example prints, in a process of its own."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_minimal_binaryconnect() -> None:
    found = re.fullmatch(
        r"(\d+) of 2000 test digits right with binary weights\n", run_example("minimal_binaryconnect.py")
    )
    assert found
    assert 1700 < int(found[1]) < 2000


def test_load_binarized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plain layers of the example answer like the trained net that the checkpoint was exported from."""
    run, plain = tmp_path / "run", tmp_path / "plain.pth"
    assert main(["train", "digits-smoke", "--threads", "1", "--out", str(run)]) == 0
    assert main(["export", str(run), "--to", "torch", "-o", str(plain)]) == 0
    stroke = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    stroke[:, :, 4:24, 13:15] = 255
    with torch.no_grad():
        label = int(open_run(run).model(stroke).argmax())
    assert run_example("load_binarized.py", plain).splitlines() == [
        "(128, 784): values [-1.0, 1.0]",
        "(10, 128): values [-1.0, 1.0]",
        f"a vertical stroke is a {label}",
    ]
