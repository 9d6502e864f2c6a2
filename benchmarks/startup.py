"""Seconds of whole processes, from start to exit: `--help`, `predict` on one image, and importing torch."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import onebit
from benchmarks.shared import add_rounds

packed = onebit.packed

WIDTHS = (784, 512, 512, 10)
ONEBIT = [sys.executable, "-m", "onebit"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    add_rounds(parser, 15)


def example_net() -> packed.PackedNet:
    """A net of the size of `mnist-fast`, binary weights only, random: start-up times do not depend on the values."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = [packed.Flatten(inputs=("input",), output="flat")]
    for i in range(1, len(WIDTHS)):
        signs = rng.integers(0, 2, (WIDTHS[i], WIDTHS[i - 1]), dtype=np.int8) * 2 - 1
        scale = np.full(WIDTHS[i], 0.01, np.float32)
        nodes.append(
            packed.Dense(
                inputs=(nodes[-1].output,),
                output=f"d{i}",
                signs=packed.bits.pack_signs(signs),
                in_features=WIDTHS[i - 1],
            )
        )
        nodes.append(packed.Affine(inputs=(f"d{i}",), output=f"a{i}", scale=scale, shift=scale))
        if i + 1 < len(WIDTHS):
            nodes.append(packed.Relu(inputs=(f"a{i}",), output=f"r{i}"))
    return packed.PackedNet(input=packed.InputSpec(shape=(1, 28, 28)), nodes=tuple(nodes), output=nodes[-1].output)


def measure(*, rounds: int = 15, on_round: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Run every command once to warm the disk cache, then `rounds` times in turn.

    Returns:
        rows of command, median and fastest seconds.

    Raises:
        UsageError: no rounds. OnebitError: a command that fails.
    """
    if rounds < 1:
        raise onebit.errors.UsageError(f"rounds must be 1 or more, got {rounds}")
    with tempfile.TemporaryDirectory() as folder:
        net, image = Path(folder) / "net.1bit", Path(folder) / "digit.png"
        onebit.save(example_net(), net)
        Image.new("L", (28, 28)).save(image)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "onebit --help": [*ONEBIT, "--help"],
            "onebit train --help": [*ONEBIT, "train", "--help"],
            "onebit predict NET IMAGE": [*ONEBIT, "predict", str(net), str(image)],
            'python -c "import torch"': [sys.executable, "-c", "import torch"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for done in range(rounds + 1):
            for name, command in commands.items():
                started = time.perf_counter()
                status = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
                if status:
                    raise onebit.errors.OnebitError(f"{name} ended with status {status}")
                if done:
                    seconds[name].append(time.perf_counter() - started)
            if on_round is not None:
                on_round(done, rounds)
    rows = [
        {"command": name, "seconds": statistics.median(times), "fastest_seconds": min(times)}
        for name, times in seconds.items()
    ]
    return {"benchmark": "startup", "settings": {"rounds": rounds, "widths": list(WIDTHS)}, "rows": rows}


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = [f"whole processes, {result['settings']['rounds']} rounds{'median':>13}{'fastest':>10}"]
    lines += [f"{row['command']:<34}{row['seconds']:8.3f} s{row['fastest_seconds']:8.3f} s" for row in result["rows"]]
    return "\n".join(lines)
