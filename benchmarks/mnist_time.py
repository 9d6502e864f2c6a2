"""Seconds to a test accuracy on MNIST with binary weights, on one thread.

Fixed schedule, all 60,000 training images, final weights, no early stopping. The clock runs from loading the data (four
compressed files, unpacked and checked) to the end of training. Importing torch and building a first optimizer, about a
second in each process, are not included. With --cold the clock runs from interpreter start to the printed accuracy.

The settings were chosen on seeds 0-14 and are measured on seeds 20-24, but on the same test images: expect accuracies
that are about 0.1 points too high. If the CPU time is much smaller than the wall time, other processes used the core.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

import onebit
from benchmarks.shared import ROOT, set_up_process

recipe = onebit.recipe

COLUMNS = {"target": "g", "settings": "", "accuracy": ".2f", "seconds": ".2f", "min_seconds": ".2f"}
COLUMNS |= {"cpu_seconds": ".2f"}
COLD = (92, 98)
"""Targets measured with --cold unless others are named."""


def _recipe(
    hidden: Sequence[int],
    *,
    lr: float,
    warmup: float,
    norm_momentum: float = 0.2,
    crop_padding: int = 0,
    adam: Mapping[str, Any] = {},
    **other: Any,
) -> onebit.recipe.Recipe:
    """The settings of all targets. Latents start small (torch's default): larger ones do not cross 0 in a few steps."""
    return recipe.Recipe(
        dataset="mnist",
        validation=0,
        model=recipe.ModelRecipe(
            widths=(784, *hidden, 10), weight_quantizer="sign", init="default", norm_momentum=norm_momentum
        ),
        optimizer=recipe.OptimizerRecipe(name="adam", lr=lr, **adam),
        schedule=recipe.ScheduleRecipe(name="linear", warmup=warmup),
        augmentation=onebit.data.Augmentation(crop_padding=crop_padding),
        threads=1,
        device="cpu",
        **other,
    )


TARGETS = {
    92: _recipe([256], epochs=0.2, batch_size=250, lr=0.05, warmup=0.04, norm_momentum=0.3),  # 48 steps
    97: _recipe([256, 128], epochs=1, batch_size=250, lr=0.03, warmup=0.1),
    98: _recipe(
        [256, 256], epochs=2.2, batch_size=600, lr=0.017, warmup=0.15, adam={"real_lr": 0.05, "betas": (0.4, 0.999)}
    ),
    98.5: _recipe([512, 512], epochs=3.75, batch_size=300, lr=0.02, warmup=0.3, label_smoothing=0.1, crop_padding=1),
}
"""Accuracy in percent -> the recipe that reaches it."""


class Result(NamedTuple):
    """One training run: test accuracy in percent, seconds of wall time, seconds of CPU time."""

    accuracy: float
    seconds: float
    cpu_seconds: float


def train_once(percent: float, seed: int, dataset: str) -> Result:
    """Train and test the final binary weights; the clock runs from data load to the end of training."""
    chosen = dataclasses.replace(TARGETS[percent], dataset=dataset, seed=seed)
    started, cpu_started = time.perf_counter(), time.process_time()
    data = onebit.runs.opening.load_recipe_data(chosen)
    training = onebit.runs.model.build_training(chosen, data)
    onebit.runs.run.fit_recipe(chosen, training, data)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Result(100 * onebit.evaluate(training.model, data.test, weights="binary").accuracy, seconds, cpu_seconds)


def train_cold(percent: float, seed: int, dataset: str) -> Result:
    """`train_once` in a fresh process; the clock runs from its start to the printed accuracy."""
    code = f"from {__name__} import *; set_up_process(1); print(train_once({percent!r}, {seed}, {dataset!r}).accuracy)"
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds, after = time.perf_counter() - started, os.times()
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return Result(float(done.stdout), seconds, cpu_seconds)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24], help="a run for each (20-24)")
    parser.add_argument("--targets", type=float, nargs="+", choices=TARGETS, metavar="PERCENT", help="only these")
    parser.add_argument("--cold", action="store_true", help="fresh processes, from interpreter start to the accuracy")
    parser.add_argument("--dataset", default="mnist", help="data set; the targets are for mnist (mnist)")


def measure(*, seeds: Sequence[int], targets: Sequence[float] | None, cold: bool, dataset: str) -> dict[str, Any]:
    """Rows of target, settings, all accuracies, and the medians over the seeds."""
    set_up_process(1)
    # the first optimizer of a process imports a compiler: only cold processes count that time
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    rows = []
    for target in targets or (COLD if cold else TARGETS):
        chosen, run = TARGETS[target], train_cold if cold else train_once
        results = [run(target, seed, dataset) for seed in seeds]
        row = {
            "target": target,
            **{key: statistics.median(of) for key, of in zip(Result._fields, zip(*results, strict=True), strict=True)},
        }
        widths = "-".join(map(str, chosen.model.widths or ()))
        row["settings"] = f"{widths}, {chosen.epochs:g} epochs of {chosen.batch_size}, lr {chosen.optimizer.lr:g}"
        row |= {"accuracies": [one.accuracy for one in results], "min_seconds": min(one.seconds for one in results)}
        rows.append(row)
    return {"rows": rows}
