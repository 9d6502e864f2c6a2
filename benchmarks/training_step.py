"""Training steps of each method against the same net with real weights and inputs in plain torch, its twin.

Both take turns, some steps each. A step is that of `onebit.fit`: forward, loss, backward, update, clip and schedule, on
a batch of noise. `first_seconds` is the time to build the net and take three steps, compiling included. --profile adds
the longest operations of each step, and how many CIFAR-10 images a second are cropped and mirrored on the device and by
the CPU.
"""

from __future__ import annotations

import itertools
import os
import shlex
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

import onebit
from benchmarks.shared import Clock, OwnClock, Rows, rows
from onebit.cli.train_command import read_command, train_request
from onebit.recipe import Recipe, build_recipe, merge
from onebit.runs.model import build_model
from onebit.runs.training import resolve_device, training_of
from onebit.train.feeds import DeviceBatches
from onebit.train.step import Objective, optimizer_step

numbers = onebit.train.precision
Precision = Literal["bf16", "fp32"]


NETS = {
    "mlp": "--model mlp --dataset mnist --batch_size 100 --model.widths 784,2048,2048,2048,10",
    "resnet20": "--model resnet20 --dataset cifar10 --batch_size 125",
    "vgg_small": "--model vgg_small --dataset cifar10 --batch_size 128",
    "resnet18": "--model resnet18 --dataset imagenet --batch_size 128",
}
"""Name -> the flags of `onebit train`."""
Mode = tuple[str | None, bool]
MODES: dict[str, Mode] = {
    "eager": (None, True),
    "compiled": ("default", True),
    "graphs": ("reduce-overhead", True),  # replays CUDA graphs
    "without-kernels": (None, False),
}
"""Name -> the mode of torch.compile for the model, and whether onebit uses its kernels."""
CLOCK = Clock(seconds=0.2)
COLUMNS = {"net": "", "precision": "", "mode": "", "method": "", "ms": ".2f", "twin_ms": ".2f", "ratio": ".3f"}
COLUMNS |= {"first_seconds": ".1f", "images_per_second": ",.0f"}


def recipe_of(net: str, method: str, flags: str = "") -> Recipe:
    """The recipe of a net and a method, with more flags of `onebit train`."""
    return train_request(read_command(shlex.split(f"{NETS[net]} --method {method} --epochs 2 {flags}")))


def twin_of(recipe: Recipe) -> Recipe:
    """The same net with real weights and activations, and the optimizer of the method, or Adam if torch lacks it."""
    real: Any = dict.fromkeys(("weight_quantizer", "weight_options", "input_quantizer", "input_options"))
    name = "adam" if recipe.optimizer.own_rule else recipe.optimizer.name
    optimizer: Any = {"name": name, **dict.fromkeys(("latent_clip", "lr_scale", "real_lr"))}
    changes = {"model": {**real, "value": 1.0, "init": "default"}, "optimizer": optimizer}
    return build_recipe(merge(recipe.settings(), changes))


class Steps:
    """A net on a device, as `onebit train` makes it, which trains on a batch of noise."""

    def __init__(self, recipe: Recipe, *, mode: Mode, precision: Precision, device: torch.device) -> None:
        torch.manual_seed(0)
        entry: Any = onebit.data.DATASETS[recipe.dataset]
        shape, classes, batch = entry.input_shape, len(entry.classes or range(1000)), recipe.batch_size
        self.precision, (compiled, self.kernels) = precision, mode
        model = build_model(recipe.model, input_shape=shape, classes=classes)
        onebit.layers.recompute_inputs_(model, recipe.recompute_inputs)
        layout: Any = numbers.resolve_memory_format(recipe.memory_format, model)
        model.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.x = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8).to(device, memory_format=layout)
        self.y = torch.randint(0, classes, (batch,)).to(device)
        self.training = training_of(recipe, model.train(), images=1000 * batch, labels=1000 * batch)
        self.forward: Any = model if compiled is None else torch.compile(model, mode=compiled)

    def take(self, count: int) -> float:
        """Seconds per step, over `count` steps."""
        os.environ["ONEBIT_NATIVE"] = str(int(self.kernels))
        made, started = self.training, _now(self.x.device)
        for _ in range(count):
            onebit.quantizers.set_progress(made.model, 0.5)
            objective = Objective(made.loss, replace(made.settings, precision=self.precision))
            optimizer_step(self.forward, made.optimizer, self.x, self.y, objective)
            made.schedule.step()
        return (_now(self.x.device) - started) / count


def _now(device: torch.device) -> float:
    """The time at which a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(recipe: Recipe, *, mode: Mode, rounds: int, seconds: float, **where: Any) -> dict[str, Any]:
    """Milliseconds of a step and of its twin's, their ratio, the seconds of the first steps; and the steps."""
    started = time.perf_counter()
    steps = Steps(recipe, mode=mode, **where)
    steps.take(3)
    first_seconds = time.perf_counter() - started
    twin = Steps(twin_of(recipe), mode=(mode[0], False), **where)
    twin.take(3)
    count = max(1, round(seconds / steps.take(1)))
    times = Clock(rounds).time({"onebit": partial(steps.take, count), "twin": partial(twin.take, count)}, OwnClock)
    (row,) = rows(times, ["onebit"], "ms", twin=["twin"])
    return {**row, "ratio": 1 / row["twin_speedup"], "first_seconds": first_seconds, "steps": steps}


def longest_operations(step: Callable[[], Any], *, cuda: bool = False, most: int = 10) -> dict[str, float]:
    """Milliseconds a step of the operations that take longest by themselves."""
    with torch.profiler.profile(acc_events=True) as profile:
        for _ in range(3):
            step()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    spent = {event.key: getattr(event, key) / 3e3 for event in profile.key_averages()}
    return dict(sorted(spent.items(), key=lambda each: -each[1])[:most])


def images_per_second(device: torch.device, *, batches: int = 200) -> float:
    """Images of CIFAR-10's size that are cropped and mirrored in batches of 125 and put on the device."""
    rng = np.random.default_rng(0)
    split = onebit.data.Split(rng.integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8), np.zeros(50_000, np.int64))
    augmentation = onebit.data.Augmentation(crop_padding=4, flip=True)
    source = DeviceBatches(onebit.data.TrainingSamples(split, augmentation, channels_last=True), device)
    chosen = [(rng.permutation(50_000)[:125], slice(None)) for _ in range(batches)]
    for _ in range(2):  # the first pass loads the kernels of a GPU
        started = _now(device)
        deque(source.batches(chosen, rng), maxlen=1)
        seconds = _now(device) - started
    return 125 * batches / seconds


def measure(
    *,
    nets: Sequence[str] = ("mlp",),
    methods: Sequence[str] = ("binaryconnect", "binaryconnect-stochastic", "bnn"),
    modes: Sequence[str] = ("eager",),
    precisions: Sequence[str] = (),
    flags: str = "",
    device: str = "cpu",
    profile: bool = False,
    clock: Clock = CLOCK,
) -> Rows:
    """Rows of net, precision, mode, method, ms, twin_ms, ratio (medians), first_seconds.

    Args:
        nets: some of mlp,resnet20,vgg_small,resnet18
        methods: of onebit train
        modes: some of eager,compiled,graphs,without-kernels
        precisions: fp32,bf16; by default fp32, and bf16 where the device multiplies it
        flags: more flags of onebit train, in one word, as '--batch_size 250'
        device: cuda, cpu, or auto
        profile: add the longest operations, and images a second
    """
    on = resolve_device(device)
    precisions = precisions or ["fp32", *(["bf16"] if numbers.multiplies_bf16(on) else [])]
    for mode, precision, name, method in itertools.product(modes, precisions, nets, methods):
        how: dict[str, Any] = {"mode": MODES[mode], "precision": precision, "device": on}
        row = compare(recipe_of(name, method, flags), rounds=clock.rounds, seconds=clock.seconds, **how)
        steps = row.pop("steps")
        longest = {"longest": longest_operations(partial(steps.take, 1), cuda=steps.x.is_cuda)} if profile else {}
        yield {"net": name, "precision": precision, "mode": mode, "method": method, **row, **longest}
    for each in {on, torch.device("cpu")} if profile else ():
        yield {"net": f"augmentation, {each}", "images_per_second": images_per_second(each)}
