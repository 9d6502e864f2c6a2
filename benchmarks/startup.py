"""Seconds of whole processes, from start to exit: `--help`, `predict` on one image, and importing torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.shared import Clock, Rows, rows

COLUMNS = {"variant": "", "seconds": ".3f", "fastest_seconds": ".3f"}


def measure(*, rounds: int = 15) -> Rows:
    """Run every command once, which fills the disk cache, then in turn."""
    onebit = [sys.executable, "-m", "onebit"]
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder) / "digit.png")
        Image.new("L", (28, 28)).save(image)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "onebit --help": [*onebit, "--help"],
            "onebit train --help": [*onebit, "train", "--help"],
            "onebit predict mnist-mlp IMAGE": [*onebit, "predict", "mnist-mlp", image],
            'python -c "import torch"': [sys.executable, "-c", "import torch"],
        }
        run = partial(subprocess.run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        calls = {name: partial(run, command) for name, command in commands.items()}
        for call in calls.values():
            call()
        yield from rows(Clock(rounds, seconds=0.0).time(calls), calls, "seconds")
