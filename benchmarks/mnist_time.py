"""Seconds to a test accuracy on MNIST with binary weights, on one thread.

    python benchmarks/mnist_time.py              every target, five seeds
    python benchmarks/mnist_time.py --cold       92 % and 98 % as fresh processes

Fixed schedule, all 60,000 training images, final weights, no early stop. The clock runs from loading the data (four
packed files, unpacked and checked) to the end of training; torch is imported and a first optimizer built before, which
costs a second in each process. With --cold it runs from the start of the interpreter to the printed accuracy.

The settings were chosen on seeds 0-2 and are measured on seeds 10-14, but on the same test images: expect about 0.1
points of optimism.

Beside the seconds stands the CPU time of the same runs: where it is much smaller, other work had the core, and the
measurement says nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from onebit.recipe import AugmentationRecipe, ModelRecipe, OptimizerRecipe, Recipe, ScheduleRecipe

SEEDS = (10, 11, 12, 13, 14)


def _recipe(
    hidden: Sequence[int],
    *,
    epochs: float,
    lr: float,
    warmup: float,
    norm_momentum: float = 0.2,
    crop_padding: int = 0,
    **other: Any,
) -> Recipe:
    """What the targets share. Latents start small (torch's default): larger ones do not cross 0 in so few steps."""
    return Recipe(
        dataset="mnist",
        validation=0,
        model=ModelRecipe(
            widths=(784, *hidden, 10), weight_quantizer="sign", init="default", norm_momentum=norm_momentum
        ),
        optimizer=OptimizerRecipe(name="adam", lr=lr),
        schedule=ScheduleRecipe(name="linear", warmup=warmup),
        augmentation=AugmentationRecipe(crop_padding=crop_padding),
        epochs=epochs,
        threads=1,
        device="cpu",
        **other,
    )


@dataclass(frozen=True)
class Target:
    """An accuracy in percent, the recipe that reaches it, and the seconds it may take, warm and as a cold process."""

    percent: float
    recipe: Recipe
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
    Target(98, _recipe([256, 256], epochs=2.5, batch_size=300, lr=0.02, warmup=0.2), seconds=2.5, cold_seconds=5.0),
    Target(
        98.5,
        _recipe([512, 512], epochs=4, batch_size=250, lr=0.02, warmup=0.3, label_smoothing=0.1, crop_padding=1),
        seconds=8.0,
    ),
)


class Result(NamedTuple):
    """One training: test accuracy in percent, seconds on the clock, seconds of CPU time."""

    accuracy: float
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Row:
    """A target and what was measured, one result a seed."""

    target: float
    limit: float
    clock: str
    settings: str
    seeds: tuple[int, ...]
    results: tuple[Result, ...]

    def as_dict(self) -> dict[str, Any]:
        """All fields, the medians, and whether both the accuracy and the time were reached."""
        accuracies, seconds, cpu_seconds = zip(*self.results, strict=True)
        accuracy, middle = statistics.median(accuracies), statistics.median(seconds)
        return {
            "target": self.target,
            "limit": self.limit,
            "clock": self.clock,
            "settings": self.settings,
            "seeds": self.seeds,
            "accuracies": accuracies,
            "seconds": seconds,
            "median_accuracy": accuracy,
            "median_seconds": middle,
            "min_seconds": min(seconds),
            "median_cpu_seconds": statistics.median(cpu_seconds),
            "reached": accuracy >= self.target and middle <= self.limit,
        }


def settings(recipe: Recipe) -> str:
    """The recipe in one line."""
    text = f"{'-'.join(map(str, recipe.model.widths))}, {recipe.epochs:g} epochs of {recipe.batch_size}"
    text += f", lr {recipe.optimizer.lr:g}"
    if recipe.augmentation.crop_padding:
        text += f", crop {recipe.augmentation.crop_padding}"
    if recipe.label_smoothing:
        text += f", smoothing {recipe.label_smoothing:g}"
    return text


def prepare() -> None:
    """What is not on the clock of a warm run: torch, and the compiler that its first optimizer imports."""
    import torch

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def train_once(recipe: Recipe) -> Result:
    """Train and test the final binary weights; the clock runs from data load to the end of training."""
    import torch

    from onebit.evaluation import evaluate
    from onebit.train.build import build_training
    from onebit.train.loop import fit
    from onebit.train.run import load_recipe_data

    torch.set_num_threads(1)
    started, cpu_started = time.perf_counter(), time.process_time()
    data = load_recipe_data(recipe)
    training = build_training(recipe, data)
    fit(
        training.model,
        data,
        training.optimizer,
        epochs=recipe.epochs,
        loss=training.loss,
        schedule=training.schedule,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        precision=recipe.precision,
        augmentation=training.augmentation,
    )
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Result(100 * evaluate(training.model, data.test, weights="binary").accuracy, seconds, cpu_seconds)


def train_cold(recipe: Recipe, percent: float) -> Result:
    """`train_once` in a fresh process; the clock runs from its start to the accuracy it prints."""
    command = [sys.executable, __file__, "--once", f"{percent:g}", "--seeds", str(recipe.seed)]
    command += ["--dataset", recipe.dataset]
    before, started = os.times(), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}")
    after = os.times()
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return Result(float(line), seconds, cpu_seconds)


def measure(target: Target, *, seeds: Sequence[int], dataset: str = "mnist", cold: bool = False) -> Row:
    """One row: the target's recipe on every seed, warm in this process or each in a fresh one.

    Args:
        dataset: another data set for a quick look; the targets are for `mnist`.
    """
    recipes = [dataclasses.replace(target.recipe, dataset=dataset, seed=seed) for seed in seeds]
    return Row(
        target=target.percent,
        limit=(target.cold_seconds or target.seconds) if cold else target.seconds,
        clock="cold process" if cold else "data load to end of training",
        settings=settings(target.recipe),
        seeds=tuple(seeds),
        results=tuple(train_cold(recipe, target.percent) if cold else train_once(recipe) for recipe in recipes),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    heads = ("target", "accuracy", "limit", "median", "min", "CPU")
    lines = [f"{heads[0]:>7} {heads[1]:>10}{''.join(f'{head:>9}' for head in heads[2:])}  settings; accuracies"]
    for row in rows:
        r = row.as_dict()
        times = (row.limit, r["median_seconds"], r["min_seconds"], r["median_cpu_seconds"])
        lines.append(
            f"{row.target:5g} % {r['median_accuracy']:8.2f} %{''.join(f'{seconds:7.2f} s' for seconds in times)}"
            f"  {row.settings}; {' '.join(f'{accuracy:.2f}' for accuracy in r['accuracies'])}"
            + ("" if r["reached"] else "  (missed)")
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or with --json one object with `rows`."""
    parser = argparse.ArgumentParser(prog="mnist_time", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED")
    parser.add_argument("--targets", type=float, nargs="+", metavar="PERCENT", help="only these")
    parser.add_argument("--cold", action="store_true", help="fresh processes, interpreter start to printed accuracy")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dataset", default="mnist", help="another one for a quick look; the targets are for mnist")
    parser.add_argument("--once", type=float, metavar="PERCENT", help="train one target once and print its accuracy")
    options = parser.parse_args(argv)
    by_percent = {target.percent: target for target in TARGETS}
    unknown = {*(options.targets or ()), *([options.once] if options.once else ())} - set(by_percent)
    if unknown:
        parser.error(f"no such target: {', '.join(map('{:g}'.format, sorted(unknown)))}; there are 92, 97, 98 and 98.5")
    if options.once:
        target = by_percent[options.once]
        result = train_once(dataclasses.replace(target.recipe, dataset=options.dataset, seed=options.seeds[0]))
        print(f"{result.accuracy:.4f}", flush=True)
        return 0
    if not options.cold:
        prepare()
    chosen = [by_percent[percent] for percent in options.targets or by_percent]
    rows = [
        measure(target, seeds=options.seeds, dataset=options.dataset, cold=options.cold)
        for target in chosen
        if not options.cold or options.targets or target.cold_seconds
    ]
    if options.json:
        print(json.dumps({"rows": [row.as_dict() for row in rows]}, indent=2))
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
