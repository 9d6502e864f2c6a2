"""Seconds of whole processes, from start to exit: `--help`, `predict` on one image, and importing torch."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

COLUMNS = {"command": "", "seconds": ".3f", "fastest_seconds": ".3f"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--rounds", type=int, default=15, help="after one that fills the disk cache (%(default)s)")


def measure(*, rounds: int) -> dict[str, Any]:
    """Run every command once, then `rounds` times in turn."""
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
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for done in range(rounds + 1):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
                if done:
                    seconds[name].append(time.perf_counter() - started)
    rows = [
        {"command": name, "seconds": statistics.median(times), "fastest_seconds": min(times)}
        for name, times in seconds.items()
    ]
    return {"rows": rows}
