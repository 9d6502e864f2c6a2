"""Seconds to a test accuracy on MNIST with binary weights, on one thread.

Fixed schedule, all 60,000 training images, final weights, no early stopping. The clock runs from loading the data (four
compressed files, unpacked and checked) to the end of training. Importing torch and building a first optimizer, about a
second in each process, are not included. With --cold the clock runs from interpreter start to the printed accuracy.

The settings were chosen on seeds 0-14 and are measured on seeds 20-24, but on the same test images: expect accuracies
that are about 0.1 points too high.

The CPU time of the runs is reported as well. If it is much smaller than the wall time, other processes used the core
and the measurement is not valid.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

import onebit
from benchmarks.shared import ROOT, set_up_process

SEEDS = (20, 21, 22, 23, 24)
DATASET = "mnist"


def _recipe(
    hidden: Sequence[int],
    *,
    epochs: float,
    lr: float,
    warmup: float,
    norm_momentum: float = 0.2,
    crop_padding: int = 0,
    **other: Any,
) -> onebit.recipe.Recipe:
    """The settings of all targets. Latents start small (torch's default): larger ones do not cross 0 in a few steps."""
    return onebit.recipe.Recipe(
        dataset=DATASET,
        validation=0,
        model=onebit.recipe.ModelRecipe(
            widths=(784, *hidden, 10), weight_quantizer="sign", init="default", norm_momentum=norm_momentum
        ),
        optimizer=onebit.recipe.OptimizerRecipe(name="adam", lr=lr),
        schedule=onebit.recipe.ScheduleRecipe(name="linear", warmup=warmup),
        augmentation=onebit.recipe.AugmentationRecipe(crop_padding=crop_padding),
        epochs=epochs,
        threads=1,
        device="cpu",
        **other,
    )


@dataclass(frozen=True)
class Target:
    """An accuracy in percent, the recipe that reaches it, and the seconds it may take, warm and as a cold process."""

    percent: float
    recipe: onebit.recipe.Recipe
    seconds: float
    cold_seconds: float | None = None


TARGETS = (
    Target(
        92,
        _recipe([256], epochs=0.2, batch_size=250, lr=0.05, warmup=0.04, norm_momentum=0.3),  # 48 steps
        seconds=0.5,
        cold_seconds=3.0,
    ),
    Target(97, _recipe([256, 128], epochs=1, batch_size=250, lr=0.03, warmup=0.1), seconds=1.2),
    Target(98, _recipe([256, 256], epochs=2.75, batch_size=300, lr=0.02, warmup=0.2), seconds=2.5, cold_seconds=5.0),
    Target(
        98.5,
        _recipe([512, 512], epochs=3.75, batch_size=300, lr=0.02, warmup=0.3, label_smoothing=0.1, crop_padding=1),
        seconds=8.0,
    ),
)


class Result(NamedTuple):
    """One training run: test accuracy in percent, seconds of wall time, seconds of CPU time."""

    accuracy: float
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Row:
    """A target and its results, one for each seed; no limit on other data than those of the targets."""

    target: float
    limit: float | None
    settings: str
    seeds: tuple[int, ...]
    results: tuple[Result, ...]

    def as_dict(self) -> dict[str, Any]:
        """All fields, the medians, and whether both the accuracy and the time were reached, None without a limit."""
        accuracies, seconds, cpu_seconds = zip(*self.results, strict=True)
        accuracy, middle = statistics.median(accuracies), statistics.median(seconds)
        return {
            "target": self.target,
            "limit": self.limit,
            "settings": self.settings,
            "seeds": self.seeds,
            "accuracies": accuracies,
            "seconds": seconds,
            "median_accuracy": accuracy,
            "median_seconds": middle,
            "min_seconds": min(seconds),
            "median_cpu_seconds": statistics.median(cpu_seconds),
            "reached": None if self.limit is None else accuracy >= self.target and middle <= self.limit,
        }


def settings(recipe: onebit.recipe.Recipe) -> str:
    """The recipe on one line."""
    text = f"{'-'.join(map(str, recipe.model.widths or ()))}, {recipe.epochs:g} epochs of {recipe.batch_size}"
    text += f", lr {recipe.optimizer.lr:g}"
    if recipe.augmentation.crop_padding:
        text += f", crop {recipe.augmentation.crop_padding}"
    if recipe.label_smoothing:
        text += f", smoothing {recipe.label_smoothing:g}"
    return text


def train_once(recipe: onebit.recipe.Recipe) -> Result:
    """Train and test the final binary weights; the clock runs from data load to the end of training."""
    started, cpu_started = time.perf_counter(), time.process_time()
    data = onebit.runs.run.load_recipe_data(recipe)
    training = onebit.runs.model.build_training(recipe, data)
    onebit.runs.run.fit_recipe(recipe, training, data)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Result(100 * onebit.evaluate(training.model, data.test, weights="binary").accuracy, seconds, cpu_seconds)


def print_accuracy(percent: float, seed: int, dataset: str) -> None:
    """The work of a fresh process: train, then print the accuracy."""
    set_up_process(1)
    print(train_once(_recipe_of(percent, seed, dataset)).accuracy, flush=True)


def train_cold(percent: float, seed: int, dataset: str) -> Result:
    """`train_once` in a fresh process; the clock runs from its start to the printed accuracy."""
    code = f"from {__name__} import print_accuracy; print_accuracy({percent!r}, {seed!r}, {dataset!r})"
    before, started = os.times(), time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
    if process.returncode:
        raise onebit.errors.OnebitError(f"a fresh process for {percent:g} % ended with status {process.returncode}")
    after = os.times()
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return Result(float(line), seconds, cpu_seconds)


def _recipe_of(percent: float, seed: int, dataset: str) -> onebit.recipe.Recipe:
    (recipe,) = (target.recipe for target in TARGETS if target.percent == percent)
    return dataclasses.replace(recipe, dataset=dataset, seed=seed)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED", help="one training run each (20-24)"
    )
    parser.add_argument("--targets", type=float, nargs="+", metavar="PERCENT", help="only these: 92, 97, 98, 98.5")
    parser.add_argument(
        "--cold", action="store_true", help="fresh processes, from interpreter start to printed accuracy"
    )
    parser.add_argument(
        "--dataset", default=DATASET, help="another data set for a quick look; the targets are for mnist"
    )


def measure(
    *,
    seeds: Sequence[int] = SEEDS,
    targets: Sequence[float] | None = None,
    cold: bool = False,
    dataset: str = DATASET,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train every target on every seed.

    Args:
        targets: in percent; None for all, with `cold` all that have a limit for a cold process.
        cold: train each in a fresh process.
        on_round: called with (runs done, runs).

    Returns:
        machine, settings, and the rows of `Row.as_dict`.

    Raises:
        UsageError: no such target, or, with `cold`, one without a limit for a cold process.
    """
    if targets is None:
        chosen = [target for target in TARGETS if target.cold_seconds or not cold]
    else:
        chosen = [target for target in TARGETS if target.percent in targets]
        unknown = {*targets} - {target.percent for target in TARGETS}
        if unknown:
            known = ", ".join(f"{target.percent:g}" for target in TARGETS)
            raise onebit.errors.UsageError(
                f"unknown target {', '.join(f'{percent:g}' for percent in unknown)}; known: {known}"
            )
    if cold and (warm := [target.percent for target in chosen if target.cold_seconds is None]):
        raise onebit.errors.UsageError(f"{', '.join(f'{percent:g}' for percent in warm)}: no limit for a cold process")
    where = set_up_process(1)
    # the first optimizer of a process imports a compiler: only cold processes count that time
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    rows = []
    for number, target in enumerate(chosen):
        results = []
        for seed in seeds:
            if cold:
                results.append(train_cold(target.percent, seed, dataset))
            else:
                results.append(train_once(_recipe_of(target.percent, seed, dataset)))
            if on_round is not None:
                on_round(number * len(seeds) + len(results), len(chosen) * len(seeds))
        limit = None if dataset != DATASET else target.cold_seconds if cold else target.seconds
        rows.append(Row(target.percent, limit, settings(target.recipe), tuple(seeds), tuple(results)))
    return {
        "benchmark": "mnist-time",
        "machine": where,
        "settings": {"clock": "cold process" if cold else "data load to end of training", "dataset": dataset},
        "rows": [row.as_dict() for row in rows],
    }


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    heads = ("target", "accuracy", "limit", "median", "min", "CPU")
    lines = [
        f"{result['machine']['cpu']}, {result['settings']['clock']}, {result['settings']['dataset']}",
        f"{heads[0]:>7} {heads[1]:>10}{''.join(f'{head:>9}' for head in heads[2:])}  settings; accuracies",
    ]
    for row in result["rows"]:
        times = [f"{row[name]:.2f} s" for name in ("median_seconds", "min_seconds", "median_cpu_seconds")]
        times = ["" if row["limit"] is None else f"{row['limit']:.2f} s", *times]
        lines.append(
            f"{row['target']:5g} % {row['median_accuracy']:8.2f} %{''.join(f'{text:>9}' for text in times)}"
            f"  {row['settings']}; {' '.join(f'{accuracy:.2f}' for accuracy in row['accuracies'])}"
            + ("  (missed)" if row["reached"] is False else "")
        )
    return "\n".join(lines)
