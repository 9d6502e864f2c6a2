"""Training steps of each method on a GPU against the same net without quantizers.

A method and its float twin take turns in one process, some steps each, and a ratio is that of one round; the figure is
the median. A step is that of `onebit.fit`: forward, loss, backward, update, clip and schedule. The nets are measured in
the order of worth, and what no longer fits into the minutes is named. On a CPU the same runs slowly.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import onebit
from benchmarks.shared import words
from onebit.cli.train_command import read_command, train_request
from onebit.recipe import Recipe
from onebit.runs.model import Training, build_model, resolve_device, training_of
from onebit.train.step import optimizer_step


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
COMPILED = ("binaryconnect", "bnn")
"""Methods that are compiled as well: each takes the compiler a minute."""
MODES = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}
"""How a model runs -> mode of torch.compile; "reduce-overhead" replays CUDA graphs."""
COLUMNS = {"net": "", "precision": "", "mode": "", "method": "", "ms": ".2f", "twin_ms": ".2f", "ratio": ".3f"}


@dataclass
class Steps:
    """A net, what trains it, and a batch of noise on the device."""

    training: Training
    forward: nn.Module
    x: Tensor
    y: Tensor
    precision: str

    def take(self, count: int) -> float:
        """Seconds per step, over `count` steps."""
        _wait(self.x)
        started = time.perf_counter()
        for _ in range(count):
            made = self.training
            onebit.quantizers.set_progress(made.model, 0.5)
            optimizer_step(
                self.forward, made.optimizer, self.x, self.y, loss=made.loss, precision=self.precision,
                settings=made.step_settings,
            )  # fmt: skip
            made.schedule.step()
        _wait(self.x)
        return (time.perf_counter() - started) / count


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def recipe_of(net: str, method: str) -> Recipe:
    model, *flags = NETS[net].flags
    return train_request(read_command(["--model", model, "--method", method, *flags, "--epochs", "2"])).recipe


def twin_of(recipe: Recipe) -> Recipe:
    """The same net with real weights and activations, and the optimizer of the method, or Adam for one of its own."""
    names = ("weight_quantizer", "weight_options", "input_quantizer", "input_options")
    real: dict[str, Any] = dict.fromkeys(names)
    optimizer = recipe.optimizer
    name = "adam" if onebit.optim.OPTIMIZERS.entry(optimizer.name).own_rule else optimizer.name
    optimizer = replace(optimizer, name=name, latent_clip=None, lr_scale=None, real_lr=None, own={})
    return replace(recipe, model=replace(recipe.model, value=1.0, init="default", **real), optimizer=optimizer)


def build(recipe: Recipe, net: str, *, precision: str, mode: str, device: torch.device) -> Steps:
    """A net on a device, as `onebit train` makes it."""
    about = NETS[net]
    torch.manual_seed(0)
    statistics = ([120.0] * about.shape[0], [60.0] * about.shape[0]) if recipe.model.coding == "standardize" else None
    model = build_model(recipe.model, input_shape=about.shape, classes=about.classes, statistics=statistics)
    layout: Any = onebit.evaluation.precision.resolve_memory_format("auto", model)
    model.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randint(0, 256, (about.batch, *about.shape), dtype=torch.uint8).to(device, memory_format=layout)
    y = torch.randint(0, about.classes, (about.batch,)).to(device)
    training = training_of(recipe, model.train(), images=1000 * about.batch, labels=1000 * about.batch)
    forward: Any = model if MODES[mode] is None else torch.compile(model, mode=MODES[mode])
    return Steps(training, forward, x, y, precision)


def cases(nets: Sequence[str], methods: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """(net, precision, mode, method), the most telling ones first."""
    for mode, precision in (("eager", "bf16"), ("compiled", "bf16"), ("graphs", "bf16"), ("eager", "fp32")):
        for net in nets:
            for method in methods if mode == "eager" else [name for name in methods if name in COMPILED]:
                yield net, precision, mode, method


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    known = [name for name in onebit.recipe.methods() if name != "real"]
    parser.add_argument("--nets", type=words, default=list(NETS), help=f"some of {','.join(NETS)}")
    parser.add_argument("--methods", type=words, default=known, help=f"some of {','.join(known)}")
    parser.add_argument("--minutes", type=float, default=5.0, help="of measurement (5)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (7)")
    parser.add_argument("--device", default="auto", help="cuda, cpu, or auto")


def measure(
    *,
    nets: Sequence[str] = tuple(NETS),
    methods: Sequence[str] = ("binaryconnect", "bnn"),
    minutes: float = 5.0,
    rounds: int = 7,
    device: str = "auto",
) -> dict[str, Any]:
    """Time steps until the minutes are over.

    Returns:
        rows of net, precision, mode, method, ms, twin_ms, ratio (median), first_seconds; `left`, the cases that were
        not measured.
    """
    place = resolve_device(device)
    end, every = time.monotonic() + 60 * minutes, list(cases(nets, methods))
    rows: list[dict[str, Any]] = []
    twins: dict[tuple[Any, ...], Steps] = {}
    for case in every:
        if time.monotonic() >= end:
            break
        rows.append(_row(case, twins, rounds, place))
    return {
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
        "rows": rows,
        "left": [" ".join(case) for case in every[len(rows) :]],
    }


def _row(
    case: tuple[str, str, str, str], twins: dict[tuple[Any, ...], Steps], rounds: int, place: Any
) -> dict[str, Any]:
    net, precision, mode, method = case
    recipe = recipe_of(net, method)
    how: dict[str, Any] = {"precision": precision, "mode": mode, "device": place}
    twin, key = twin_of(recipe), (net, precision, mode, repr(twin_of(recipe)))
    if key not in twins:
        if twins and next(iter(twins))[:3] != key[:3]:  # those of another net only take memory
            twins.clear()
        twins[key] = build(twin, net, **how)
        twins[key].take(3)
    started = time.perf_counter()
    steps = build(recipe, net, **how)
    steps.take(3)
    first = time.perf_counter() - started
    count = max(1, min(20, round(0.1 / steps.take(1))))
    pairs = [(steps.take(count), twins[key].take(count)) for _ in range(rounds)]
    ms, twin_ms = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    names = dict(zip(("net", "precision", "mode", "method"), case, strict=True))
    return {**names, "ms": ms, "twin_ms": twin_ms, "ratio": ratio, "first_seconds": first}
