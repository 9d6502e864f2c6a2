"""Runs of milliseconds: toy data, a small net, and comparison of two runs bit by bit."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit.common.files
from onebit.data import Augmentation, Dataset, Split, make_toy
from onebit.evaluation.losses import Loss, cross_entropy
from onebit.models import MLP
from onebit.optim import OPTIMIZERS, clip_latents_, latent_groups, prox_latents_
from onebit.quantizers import Stochastic, UInt2
from onebit.train.history import EpochLog, History
from onebit.train.loop import fit
from onebit.train.schedules import make_schedule, schedule_factor

EPOCHS = 3
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "bop": {"gamma": 0.1, "threshold": 1e-5},
    "bayesbinn": {"count": 129, "lr": 1e-3, "momentum": 0.9},
}
BATCH_SIZE = 32
TOY: dict[str, Any] = {
    "dataset": "toy",
    "model": {"widths": [64, 16, 4]},
    "epochs": 2,
    "batch_size": 32,
    "device": "cpu",
}
"""Settings of a recipe for the data of the fixture `data`."""
TIMES = ("seconds", "images_per_second")


def toy_data(train: int = 129, validation: int = 40, test: int = 40) -> Dataset:
    images, held_out = make_toy(train + validation, test)
    empty: Split = images[:0]
    return Dataset(
        "toy", images[:train], images[train:] if validation else empty, held_out, tuple("abcd"), note="made-up data"
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to train. `generator`: the quantizers have a generator; otherwise they use that of torch."""

    quantizer: str | None = "sign"
    inputs: Any = None
    generator: bool = False
    dropout: float = 0.0
    optimizer: str = "adam"
    lr: float = 0.02
    schedule: str | None = "cosine"
    augmentation: Augmentation | None = None
    precision: str = "fp32"
    loss: str | Loss = "squared_hinge"
    step: dict[str, Any] = dataclasses.field(default_factory=dict)
    ema: float = 0.0


@dataclasses.dataclass
class Toy:
    """Model, optimizer and schedule of a case, freshly built."""

    case: Case
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None

    def fit(self, data: Dataset, folder: Path | None = None, **options: Any) -> History:
        settings: dict[str, Any] = {
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "loss": self.case.loss,
            "schedule": self.schedule,
            "precision": self.case.precision,
            "augmentation": self.case.augmentation,
            **self.case.step,
            "ema": self.case.ema,
            "folder": folder,
        }
        return fit(self.model, data, self.optimizer, **(settings | options))


def build(case: Case, *, seed: int = 0, total_steps: int = EPOCHS * 4, device: Any = "cpu") -> Toy:
    torch.manual_seed(seed)
    quantizer: Any = case.quantizer
    if case.generator:
        quantizer = Stochastic(generator=torch.Generator().manual_seed(seed + 1))
    model = MLP(
        (64, 20, 12, 4),
        weight_quantizer=quantizer,
        input_quantizer=case.inputs,
        dropout=case.dropout,
        init="default" if quantizer is None else "uniform",
    ).to(device)
    groups = latent_groups(model, lr=case.lr, latent_clip=None if quantizer is None else "value")
    options = OPTIONS.get(case.optimizer, {})
    optimizer = clip_latents_(OPTIMIZERS[case.optimizer](groups, **options))
    if case.quantizer == "prox":
        prox_latents_(optimizer, growth=1.0, freeze=8)
    schedule = None
    if case.schedule is not None:
        schedule = make_schedule(optimizer, schedule_factor(case.schedule, total_steps=total_steps, final=0.01))
    return Toy(case, model, optimizer, schedule)


class Stop(Exception):
    """Raised by the hooks below to interrupt a run."""


def stop_after_epoch(epoch: int) -> Callable[[EpochLog], None]:
    def hook(row: EpochLog) -> None:
        if row.epoch == epoch:
            raise Stop

    return hook


def stop_at_step(step: int) -> Callable[[int, int], None]:
    def hook(done: int, total: int) -> None:
        if done == step:
            raise Stop

    return hook


def whole_and_resumed(train: Callable[..., Any], folder: Path, *, epoch: int = 1) -> tuple[Any, Any]:
    """The results of `train(folder)`, and of the same run stopped after an epoch and resumed."""
    whole = train(folder / "whole")
    with pytest.raises(Stop):
        train(folder / "parts", on_epoch=stop_after_epoch(epoch))
    torch.rand(7), np.random.random(), random.random()  # random numbers drawn between the two runs do not matter
    return whole, train(folder / "parts", resume=True)


def metrics_without_times(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict of leaves, tensors as bytes."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for key, item in enumerate(value) for k, v in flat(item, f"{name}.{key}").items()}
    if isinstance(value, Tensor):
        held = value.detach().contiguous()
        return {name: (value.dtype, tuple(value.shape), held.reshape(-1).view(torch.uint8).numpy().tobytes())}
    return {name: value}


def checkpoint_without_times(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "last.ckpt", weights_only=True)
    held = flat(state | {"rows": [json.loads(row) for row in state["rows"]]})
    return {key: value for key, value in held.items() if not key.endswith(TIMES)}


def everything(folder: Path) -> dict[str, Any]:
    """The files of a run without times."""
    return {
        "metrics": metrics_without_times(folder),
        "last": checkpoint_without_times(folder),
        "best": (folder / "best.safetensors").read_bytes(),
        "final": (folder / "final.safetensors").read_bytes(),
    }


CASES = {
    "sign": Case("sign"),
    "sign bf16": Case("sign", precision="bf16"),
    "stochastic": Case("stochastic"),
    "stochastic bf16": Case("stochastic", precision="bf16"),
    "own generator": Case("stochastic", generator=True),
    "sign activations": Case("ste_sign", inputs="ste_sign"),
    "few bits": Case("sign", inputs="uint4", precision="bf16"),
    "few bits, followed": Case("ste_sign", inputs=partial(UInt2, range="follow"), ema=0.7),
    "real": Case(None, loss="cross_entropy"),
    "dropout": Case("sign", dropout=0.3),
    "stochastic dropout": Case("stochastic", dropout=0.3, augmentation=Augmentation(crop_padding=1)),
    "augmentation": Case("sign", augmentation=Augmentation(crop_padding=1, flip=True)),
    "sgd momentum": Case("sign", optimizer="sgd", schedule="linear"),
    "parts": Case("stochastic", step={"accumulate": 3, "clip_grad_norm": 0.5, "clip_grad_value": 0.1}),
    "average": Case("sign", ema=0.7),
    "bop": Case("sign", optimizer="bop"),
    "bayesbinn": Case("concrete_sign", optimizer="bayesbinn", step={"samples": 2}),
    "prox": Case("prox"),
    "nadam": Case("sign", optimizer="nadam", schedule=None),
}
DATA = toy_data()


def loss_that_breaks(at: int, value: float) -> Any:
    """cross-entropy until call `at` in training, then `value`."""
    calls = 0

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += logits.requires_grad
        found = cross_entropy(logits, labels)
        return found * 0 + value if calls == at and logits.requires_grad else found

    return loss


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of tiny files are written here; that they are synced is tested with `onebit.common.files`."""
    monkeypatch.setattr(onebit.common.files, "_fsync", lambda path, flags: None)


@pytest.fixture(scope="module")
def data() -> Dataset:
    train, test = make_toy(128, 64)
    return Dataset("toy", train, test[:32], test[32:], tuple("abcd"))


class Recorder(nn.Module):
    """Writes down which images it is shown: each carries its number in two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.batches: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batches.append((x[:, 0, 0, 0].long() + 256 * x[:, 0, 0, 1].long()).tolist())
        return self.linear(x.flatten(1).float())


def numbered(count: int, validation: int = 0) -> Dataset:
    numbers = np.arange(count + validation)
    images = np.stack([numbers % 256, numbers // 256], 1).astype(np.uint8).reshape(-1, 1, 1, 2)
    split = Split(images, numbers % 2)
    return Dataset("numbered", split[:count], split[count:], split[:0], ("even", "odd"))
