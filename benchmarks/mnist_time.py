"""Seconds to a test accuracy on MNIST with binary weights, on one thread.

Fixed schedule, all 60,000 training images, final weights, no early stopping. The clock runs from loading the data (four
compressed files, unpacked and checked) to the end of training. Importing torch and building a first optimizer, about a
second in each process, are not included. With --cold the clock runs from interpreter start to the printed accuracy.

The settings were chosen on seeds 0-14 and are measured on seeds 20-24, but on the same test images: expect accuracies
that are about 0.1 points too high. If the CPU time is much smaller than the wall time, other processes used the core.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from functools import partial

import numpy as np
import torch

import onebit
from benchmarks.shared import ROOT, Clock, OwnClock, Rows
from onebit.cli.train_command import read_command, train_request

COLUMNS = {"target": "g", "accuracy": ".2f", "seconds": ".2f", "min_seconds": ".2f", "cpu_seconds": ".2f", "flags": ""}
PLAIN = "--label_smoothing 0 --augmentation.crop_padding 0"
TARGETS = {
    92: f"--model.widths 784,256,10 --epochs 0.2 --optimizer.lr 0.05 --schedule.warmup 0.04 {PLAIN} "
    "--model.norm_momentum 0.3",  # 48 steps
    97: f"--model.widths 784,256,128,10 --epochs 1 --optimizer.lr 0.03 --schedule.warmup 0.1 {PLAIN}",
    98: f"--model.widths 784,256,256,10 --epochs 2.2 --optimizer.lr 0.017 --schedule.warmup 0.15 {PLAIN} "
    "--batch_size 600 --optimizer.real_lr 0.05 --optimizer.betas 0.4,0.999",
    98.5: "--epochs 3.75 --batch_size 300 --schedule.warmup 0.3",
}
"""Accuracy in percent -> the flags of `onebit train mnist-fast` that reach it."""
SEEDS = (20, 21, 22, 23, 24)


def train(flags: str, seed: int) -> tuple[float, float, float]:
    """Test accuracy of the final binary weights in percent, and seconds and CPU seconds of the training."""
    recipe = train_request(read_command(shlex.split(f"mnist-fast --validation 0 --device cpu {flags} --seed {seed}")))
    started, before = time.perf_counter(), _cpu_seconds()
    data = onebit.runs.opening.load_recipe_data(recipe)
    training = onebit.runs.training.prepare(recipe, data)
    training.fit(data)
    seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - before
    return 100 * onebit.evaluate(training.model, data.test, weights="binary").accuracy, seconds, cpu_seconds


def train_cold(flags: str, seed: int) -> tuple[float, float, float]:
    """`train` in a fresh process; the clock runs from its start to the printed accuracy."""
    code = f"from benchmarks.mnist_time import *; torch.set_num_threads(1); print(train({flags!r}, {seed})[0])"
    started, before = time.perf_counter(), _cpu_seconds()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout), time.perf_counter() - started, _cpu_seconds() - before


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def measure(*, cold: bool = False, flags: str = "") -> Rows:
    """Rows of target, the medians over the seeds, all accuracies, and the flags.

    Args:
        cold: fresh processes, from interpreter start to the accuracy
        flags: more flags of onebit train, in one word
    """
    # the first optimizer of a process imports a compiler: only cold processes count that time
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    words = {str(target): f"{TARGETS[target]} {flags}" for target in TARGETS if not cold or target in (92, 98)}
    run = train_cold if cold else train
    calls = {target: partial(next, map(partial(run, flags), SEEDS)) for target, flags in words.items()}
    for target, runs in Clock(rounds=len(SEEDS)).time(calls, OwnClock).items():
        row = dict(zip(("accuracy", "seconds", "cpu_seconds"), np.median(runs, axis=0), strict=True))
        row |= {"accuracies": runs[:, 0].tolist(), "min_seconds": runs[:, 1].min()}
        yield {"target": float(target), **row, "flags": words[target]}
