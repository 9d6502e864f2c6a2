"""A stopped and resumed run ends in the same bits as one that was never stopped."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    ExponentialLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

import onebit.common.files
import onebit.train.loop
from onebit.layers import BinaryLinear
from onebit.optim import latent_groups
from onebit.train.job import Job
from onebit.train.loop import fit
from onebit.train.weights import read_weights
from support.toy_training import (
    CASES,
    DATA,
    EPOCHS,
    Stop,
    build,
    everything,
    stop_after_epoch,
    stop_at_step,
    whole_and_resumed,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`whole(name)`: everything an uninterrupted run of a case leaves behind."""
    known: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        if name not in known:
            folder = tmp_path_factory.mktemp("whole")
            build(CASES[name]).fit(DATA, folder)
            known[name] = everything(folder)
        return known[name]

    return of


@pytest.mark.parametrize("name", CASES)
def test_resume_after_each_epoch_is_bit_identical(tmp_path: Path, whole: Any, name: str) -> None:
    for epoch in range(1, EPOCHS) if name == "stochastic dropout" else [1]:
        torch.manual_seed(999)  # a new process has another random state
        with pytest.raises(Stop):
            build(CASES[name]).fit(DATA, tmp_path, resume=True, on_epoch=stop_after_epoch(epoch))
    build(CASES[name]).fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole(name)
    toy, seen = build(CASES[name]), []
    history = toy.fit(DATA, tmp_path, resume=True, on_step=lambda *step: seen.append(step))  # a finished run
    assert (seen, len(history), toy.model.training) == ([], EPOCHS, False)
    assert everything(tmp_path) == whole(name)


@pytest.mark.parametrize(("name", "step"), [("stochastic", 1), ("own generator", 11)])
def test_an_interrupted_epoch_is_trained_again(tmp_path: Path, whole: Any, name: str, step: int) -> None:
    with pytest.raises(Stop):
        build(CASES[name]).fit(DATA, tmp_path, on_step=stop_at_step(step))
    build(CASES[name]).fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole(name)


@pytest.mark.parametrize("name", ["sign", "prox", "bop", "bayesbinn"])
def test_the_same_objects_resume_in_the_same_process(tmp_path: Path, whole: Any, name: str) -> None:
    """As in a notebook: the rates are further than the checkpoint, and a gradient is left of a backward pass."""
    toy = build(CASES[name])
    with pytest.raises(Stop):
        toy.fit(DATA, tmp_path, on_step=stop_at_step(7))
    toy.model(torch.from_numpy(DATA.train.images[:8])).sum().backward()
    toy.fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole(name)


def test_a_row_without_its_checkpoint_is_dropped(tmp_path: Path, whole: Any) -> None:
    """As if the process was killed between the two writes."""
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    checkpoint = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, resume=True, on_epoch=stop_after_epoch(2))
    (tmp_path / "last.ckpt").write_bytes(checkpoint)
    build(CASES["sign"]).fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole("sign")


@pytest.mark.parametrize(("name", "left"), [("sign", "old"), ("stochastic", "none"), ("average", "none")])
def test_missing_best_weights_are_written_on_resume(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch, name: str, left: str
) -> None:
    """As if the process was killed between the checkpoint of an epoch and its best weights."""
    whole_best, written = whole(name)["best"], onebit.train.loop.write_best

    def die(job: Job) -> None:
        if len(job.history) == best:
            raise Stop
        written(job)

    best = build(CASES[name]).fit(DATA).best.epoch
    monkeypatch.setattr(onebit.train.loop, "write_best", die)
    with pytest.raises(Stop):
        build(CASES[name]).fit(DATA, tmp_path)
    monkeypatch.undo()
    if left == "none":
        (tmp_path / "best.safetensors").unlink(missing_ok=True)
    with pytest.raises(Stop):
        build(CASES[name]).fit(DATA, tmp_path, resume=True, on_restored=stop_after_epoch(best))
    assert (tmp_path / "best.safetensors").read_bytes() == whole_best
    build(CASES[name]).fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole(name)


class Counting(nn.Module):
    """Counts its passes of training in a buffer, and depends on their number and on draws of Python and numpy."""

    def __init__(self, *, assigns: bool, persistent: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.assigns = BinaryLinear(64, 4), assigns
        self.register_buffer("passes", torch.zeros(()), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.assigns:
            self.passes = self.passes + 1
        elif self.training:
            self.passes += 1
        noise = random.random() + float(np.random.random()) if self.training else 0
        return self.net(x.flatten(1) / (255 + self.passes + 100 * noise))


@pytest.mark.parametrize(("assigns", "persistent"), [(True, False), (False, True)])
def test_buffers_change_in_training_passes_only_and_are_resumed_with_the_draws(
    tmp_path: Path, assigns: bool, persistent: bool
) -> None:
    def train(folder: Path, **options: Any) -> tuple[float, Any]:
        model = Counting(assigns=assigns, persistent=persistent)
        optimizer = torch.optim.Adam(latent_groups(model, lr=0.01))
        fit(model, DATA, optimizer, epochs=3, batch_size=30, folder=folder, **options)
        return float(model.passes), model.net.weight.tolist()

    before = random.getstate(), np.random.get_state()[1].tolist()
    train(tmp_path / "first")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    whole, resumed = whole_and_resumed(train, tmp_path)
    assert whole == resumed
    assert whole[0] == 3 * 5


# --------------------------------------------------------------------------------------------------------------- kills
KILLS = {
    "epoch": ("stochastic", "step", 7),  # the seventh step, in the middle of the second epoch
    "checkpoint": ("own generator", "write", 5),  # the bytes of the second last.ckpt, not yet renamed
    "best": ("sign", "write", 7),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of run folders, each left behind by a process that was killed."""
    folder = tmp_path_factory.mktemp("killed")
    for name, (case, kind, count) in KILLS.items():
        child = os.fork()
        if child == 0:
            try:
                _train_and_die(folder / name, case, kind, count)
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    return folder


def _train_and_die(folder: Path, case: str, kind: str, count: int) -> None:
    """Train until a number of steps, or of written files."""
    events: list[str] = []

    def happen(event: str) -> None:
        events.append(event)
        if events.count(kind) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    onebit.common.files._fsync = lambda path, flags: happen("write") if flags == os.O_RDWR else None
    build(CASES[case]).fit(DATA, folder, on_step=lambda *_: happen("step"))


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_process_is_continued(killed: Path, whole: Any, name: str) -> None:
    folder, case = killed / name, KILLS[name][0]
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        "metrics.jsonl", "last.ckpt", "best.safetensors",
    }  # fmt: skip
    assert [path.suffix for path in folder.glob(".onebit-*")] == {
        "epoch": [], "checkpoint": [".ckpt"], "best": [".safetensors"],
    }[name]  # fmt: skip
    build(CASES[case]).fit(DATA, folder, resume=True)
    assert everything(folder) == whole(case)


# --------------------------------------------------------------------------------------------- optimizers, schedules
class Slower(torch.optim.Optimizer):
    """A step that its groups count from the first one on, as in optimizers of timm and apex."""

    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=-group["lr"] / group["count"])


class Phases(LRScheduler):
    """A rate that depends on a phase with a name."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.phase = "warm"
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        self.phase = "late" if self.phase == "late" or self.last_epoch > 3 else "warm"
        return [0.1 if self.phase == "warm" else 0.01 for _ in self.base_lrs]


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (arXiv:2405.15682): parameters are y while training and their average x in eval mode."""

    def __init__(self, groups: Any, lr: float = 0.1) -> None:
        super().__init__(groups, {"lr": lr, "count": 0, "train_mode": True})

    def _move(self, share: float, mode: bool) -> None:
        for group in self.param_groups:
            moved = [p for p in group["params"] if p in self.state] if group["train_mode"] != mode else []
            for parameter in moved:
                parameter.data.lerp_(self.state[parameter]["z"], share)
            group["train_mode"] = mode

    def train(self) -> None:
        self._move(0.1, True)

    def eval(self) -> None:
        self._move(1 - 1 / 0.9, False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            assert group["train_mode"]
            group["count"] += 1
            for parameter in group["params"]:
                z = self.state[parameter].setdefault("z", parameter.clone())
                x = parameter.lerp(z, 1 - 1 / 0.9)
                z.sub_(parameter.grad, alpha=group["lr"])
                parameter.copy_(x.lerp_(z, 1 / group["count"]).lerp_(z, 0.1))


def test_a_schedule_free_optimizer_validates_and_saves_its_average_and_resumes(tmp_path: Path) -> None:
    def train(folder: Path, **options: Any) -> dict[str, Any]:
        toy = build(dataclasses.replace(CASES["sign"], schedule=None))
        toy.optimizer = optimizer = ScheduleFree(latent_groups(toy.model, lr=0.1))
        modes: set[tuple[bool, bool]] = set()
        toy.model.register_forward_hook(
            lambda net, *_: modes.add((net.training, optimizer.param_groups[0]["train_mode"]))
        )
        toy.fit(DATA, folder, **options)
        assert (True, True) in modes
        assert (False, True) not in modes
        best, saved = read_weights(folder / "best.safetensors")[0], read_weights(folder / "final.safetensors")[0]
        assert all(torch.equal(saved[name], value) for name, value in toy.model.state_dict().items())
        before = {name: value.clone() for name, value in toy.model.named_parameters()}
        optimizer.train()
        assert any(not torch.equal(before[name], value) for name, value in toy.model.named_parameters())
        assert best.keys() == saved.keys()
        return everything(folder)

    whole, resumed = whole_and_resumed(train, tmp_path, epoch=2)
    assert resumed == whole


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "plateau": lambda o: ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "multistep": lambda o: MultiStepLR(o, [2, 5, 9]),
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=13),
    "sequential": lambda o: SequentialLR(o, [ConstantLR(o, 0.5, 3), ExponentialLR(o, 0.9)], milestones=[5]),
    "a user's": Phases,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_torch_and_of_users_are_resumed(tmp_path: Path, name: str) -> None:
    def train(folder: Path, **options: Any) -> dict[str, Any]:
        toy = build(dataclasses.replace(CASES["real" if name == "a user's" else "sign"], schedule=None))
        if name == "a user's":
            toy.optimizer = Slower(toy.model.parameters())
        toy.schedule = SCHEDULES[name](toy.optimizer)
        toy.fit(DATA, folder, **options)
        return everything(folder)

    whole, resumed = whole_and_resumed(train, tmp_path, epoch=2)
    assert resumed == whole
    rates = [row["lr"] for row in whole["metrics"]]
    assert name != "plateau" or rates == sorted(rates, reverse=True) != [rates[0]] * EPOCHS


def test_the_epochs_of_a_patience_are_counted_over_a_kill(tmp_path: Path) -> None:
    def train(folder: Path, **options: Any) -> dict[str, Any]:
        toy = build(dataclasses.replace(CASES["sign"], schedule=None, lr=1e-12))  # never better than at first
        toy.fit(DATA, folder, epochs=9, patience=3, **options)
        return everything(folder)

    whole, resumed = whole_and_resumed(train, tmp_path, epoch=3)
    assert len(whole["metrics"]) == 4
    assert resumed == whole
