"""Training steps of each method against the same net with real weights and inputs in plain torch, its twin.

Both take turns in one process, some steps each. A ratio is that of one round, so that other load on the machine affects
both alike, and the figure is the median. A step is that of `onebit.fit`: forward, loss, backward, update, clip and
schedule, on a batch of noise. `first_seconds` is the time to build the net and take three steps, compiling included.
Cases that do not fit into the minutes are listed. --profile adds the longest operations of each step, and how many
CIFAR-10 images a second are cropped and mirrored on the device and by the CPU.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import onebit
from benchmarks.shared import add_timing, set_up_process, words
from onebit.cli.train_command import read_command, train_request
from onebit.recipe import Recipe
from onebit.runs.model import Training, build_model, resolve_device, training_of
from onebit.train.feeds import DeviceBatches
from onebit.train.step import Objective, optimizer_step

numbers = onebit.train.precision


@dataclass(frozen=True)
class Net:
    """A model with its images and batch; `flags` of `onebit train`."""

    flags: tuple[str, ...]
    shape: tuple[int, int, int]
    batch: int
    classes: int = 10


NETS = {
    "mlp": Net(("mlp", "--dataset", "mnist", "--model.widths", "[784,2048,2048,2048,10]"), (1, 28, 28), 100),
    "resnet20": Net(("resnet20", "--dataset", "cifar10"), (3, 32, 32), 125),
    "vgg_small": Net(("vgg_small", "--dataset", "cifar10"), (3, 32, 32), 128),
    "resnet18": Net(("resnet18", "--dataset", "imagenet"), (3, 224, 224), 128, 1000),
}


@dataclass(frozen=True)
class Mode:
    """A mode of torch.compile for the model, and whether onebit uses its kernels."""

    compile: str | None = None
    kernels: bool = True


MODES = {
    "eager": Mode(),
    "compiled": Mode("default"),
    "graphs": Mode("reduce-overhead"),  # replays CUDA graphs
    "without-kernels": Mode(kernels=False),
}
COLUMNS = {"net": "", "precision": "", "mode": "", "method": "", "ms": ".2f", "twin_ms": ".2f", "ratio": ".3f"}
COLUMNS |= {"first_seconds": ".1f"}


@dataclass
class Steps:
    """A net, what trains it, and a batch of noise on the device."""

    training: Training
    forward: nn.Module
    x: Tensor
    y: Tensor
    precision: str
    kernels: bool

    def take(self, count: int) -> float:
        """Seconds per step, over `count` steps."""
        os.environ["ONEBIT_NATIVE"] = str(int(self.kernels))
        _wait(self.x)
        started = time.perf_counter()
        for _ in range(count):
            made = self.training
            onebit.quantizers.set_progress(made.model, 0.5)
            objective = Objective(made.loss, self.precision, made.settings)
            optimizer_step(self.forward, made.optimizer, self.x, self.y, objective)
            made.schedule.step()
        _wait(self.x)
        return (time.perf_counter() - started) / count


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def recipe_of(net: str, method: str, flags: Sequence[str] = ()) -> Recipe:
    command = ["--model", *NETS[net].flags, "--method", method, "--epochs", "2", *flags]
    return train_request(read_command(command))


def twin_of(recipe: Recipe) -> Recipe:
    """The same net with real weights and activations, and the optimizer of the method, or Adam if torch lacks it."""
    names = ("weight_quantizer", "weight_options", "input_quantizer", "input_options")
    real: dict[str, Any] = dict.fromkeys(names)
    optimizer = recipe.optimizer
    name = "adam" if onebit.optim.OPTIMIZERS.entry(optimizer.name).own_rule else optimizer.name
    optimizer = replace(optimizer, name=name, latent_clip=None, lr_scale=None, real_lr=None, own={})
    return replace(recipe, model=replace(recipe.model, value=1.0, init="default", **real), optimizer=optimizer)


def build(recipe: Recipe, net: Net, *, precision: str, mode: Mode, device: torch.device) -> Steps:
    """A net on a device, as `onebit train` makes it."""
    torch.manual_seed(0)
    statistics = ([120.0] * net.shape[0], [60.0] * net.shape[0]) if recipe.model.coding == "standardize" else None
    model = build_model(recipe.model, input_shape=net.shape, classes=net.classes, statistics=statistics)
    onebit.layers.recompute_inputs_(model, recipe.recompute_inputs)
    layout: Any = numbers.resolve_memory_format(recipe.memory_format, model)
    model.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randint(0, 256, (net.batch, *net.shape), dtype=torch.uint8).to(device, memory_format=layout)
    y = torch.randint(0, net.classes, (net.batch,)).to(device)
    training = training_of(recipe, model.train(), images=1000 * net.batch, labels=1000 * net.batch)
    forward: Any = model if mode.compile is None else torch.compile(model, mode=mode.compile)
    return Steps(training, forward, x, y, precision, mode.kernels)


def compare(
    recipe: Recipe, net: Net, *, mode: Mode, rounds: int, seconds: float, profile: bool = False, **where: Any
) -> dict[str, Any]:
    """Milliseconds of a step and of its twin's, their ratio, the seconds of the first steps; the longest operations."""
    started = time.perf_counter()
    steps = build(recipe, net, mode=mode, **where)
    steps.take(3)
    first = time.perf_counter() - started
    twin = build(twin_of(recipe), net, mode=replace(mode, kernels=False), **where)
    twin.take(3)
    count = max(1, round(seconds / steps.take(1)))
    pairs = [(steps.take(count), twin.take(count)) for _ in range(rounds)]
    ms, twin_ms = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    found = {"ms": ms, "twin_ms": twin_ms, "ratio": ratio, "first_seconds": first}
    return {**found, "longest": longest_operations(steps)} if profile else found


def longest_operations(steps: Steps, *, most: int = 10) -> dict[str, float]:
    """Milliseconds a step of the operations that take longest by themselves, on the GPU if the net is there."""
    with torch.profiler.profile(acc_events=True) as profile:
        steps.take(3)
    key = "self_device_time_total" if steps.x.is_cuda else "self_cpu_time_total"
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
        started = time.perf_counter()
        ((last, _),) = deque(source.batches(chosen, rng), maxlen=1)
        _wait(last)
        seconds = time.perf_counter() - started
    return 125 * batches / seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--nets", type=words, default=["mlp"], help=f"some of {','.join(NETS)} (mlp)")
    methods = ["binaryconnect", "binaryconnect-stochastic", "bnn"]
    parser.add_argument("--methods", type=words, default=methods, help=f"methods of onebit train ({','.join(methods)})")
    parser.add_argument("--modes", type=words, default=["eager"], help=f"some of {','.join(MODES)} (eager)")
    parser.add_argument("--precisions", type=words, help="fp32,bf16 (fp32, and bf16 where the device multiplies it)")
    parser.add_argument("--flags", type=shlex.split, default=[], help="more flags of onebit train, in one word")
    parser.add_argument("--batch", type=int, help="images per step (100 for the mlp, 125 or 128 for the others)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of measurement (60)")
    parser.add_argument("--device", default="cpu", help="cuda, cpu, or auto (cpu)")
    parser.add_argument("--profile", action="store_true", help="add the longest operations, and images a second")
    add_timing(parser, rounds=11, seconds=0.2)


def measure(
    *,
    nets: Sequence[str],
    methods: Sequence[str],
    modes: Sequence[str],
    precisions: Sequence[str] | None,
    flags: Sequence[str],
    batch: int | None,
    minutes: float,
    device: str,
    threads: int,
    profile: bool = False,
    **turns: Any,
) -> dict[str, Any]:
    """Time steps until the minutes are over.

    Returns:
        rows of net, precision, mode, method, ms, twin_ms, ratio (medians), first_seconds; `left`, the cases that were
        not measured; if `profile`, the longest operations and images per second.
    """
    set_up_process(threads)
    end, found_device = time.monotonic() + 60 * minutes, resolve_device(device)
    precisions = precisions or ["fp32", *(["bf16"] if numbers.multiplies_bf16(found_device) else [])]
    cases = list(itertools.product(modes, precisions, nets, methods))
    rows: list[dict[str, Any]] = []
    for mode, precision, net, method in cases:
        if time.monotonic() >= end:
            break
        recipe = recipe_of(net, method, flags)
        about = replace(NETS[net], batch=batch or NETS[net].batch)
        where: dict[str, Any] = {"precision": precision, "mode": MODES[mode], "device": found_device}
        found = compare(recipe, about, profile=profile, **where, **turns)
        rows.append({"net": net, "precision": precision, "mode": mode, "method": method, **found})
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(found_device) if found_device.type == "cuda" else str(found_device),
        "rows": rows,
        "left": [" ".join(case) for case in cases[len(rows) :]],
    }
    if profile:
        longest = {" ".join(case): row.pop("longest") for case, row in zip(cases, rows, strict=False)}
        speed = {str(each): images_per_second(each) for each in {found_device, torch.device("cpu")}}
        result |= {"longest": longest, "images_per_second": speed}
    return result
