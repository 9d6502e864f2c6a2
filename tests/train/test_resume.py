"""Stopped anywhere, a training goes on to the very bits of one that was never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit.train.loop
from onebit.data import Augmentation, Split
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.losses import cross_entropy
from onebit.layers import BinaryLinear
from onebit.optim import latent_groups
from onebit.train.job import Job
from onebit.train.loop import fit
from support.toy_training import (
    CASES,
    DATA,
    EPOCHS,
    Case,
    Stop,
    build,
    everything,
    flat,
    stop_after_epoch,
    stop_at_step,
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
    for epoch in range(1, EPOCHS + 1):
        torch.manual_seed(999)  # a new process has another random state
        with pytest.raises(Stop):
            build(CASES[name]).fit(DATA, tmp_path, resume=True, on_epoch=stop_after_epoch(epoch))
    build(CASES[name]).fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole(name)


@pytest.mark.parametrize(("name", "step"), [("sign", 1), ("stochastic", 5), ("own generator", 7), ("dropout", 11)])
def test_an_epoch_cut_short_is_trained_again(tmp_path: Path, whole: Any, name: str, step: int) -> None:
    with pytest.raises(Stop):
        build(CASES[name]).fit(DATA, tmp_path, on_step=stop_at_step(step))
    build(CASES[name]).fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole(name)


def test_the_same_objects_may_go_on_in_the_same_process(tmp_path: Path, whole: Any) -> None:
    """As in a notebook: an interrupt between backward and step leaves a gradient that must not count."""
    toy = build(CASES["sign"])
    with pytest.raises(Stop):
        toy.fit(DATA, tmp_path, on_step=stop_at_step(6))
    toy.model(torch.from_numpy(DATA.train.images[:8])).sum().backward()
    toy.fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole("sign")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, whole: Any) -> None:
    build(CASES["stochastic"]).fit(DATA, tmp_path)
    toy, seen = build(CASES["stochastic"]), []
    history = toy.fit(DATA, tmp_path, resume=True, on_step=lambda *step: seen.append(step))
    assert seen == []
    assert len(history) == EPOCHS
    assert everything(tmp_path) == whole("stochastic")
    assert not toy.model.training


@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors"])
def test_without_resume_a_training_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(UsageError, match="holds a training already: continue it with resume=True, or choose another"):
        build(CASES["sign"]).fit(DATA, tmp_path)
    assert (tmp_path / name).read_bytes() == b"whatever"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_single_number_in_place_of_those_of_a_layer_is_refused_and_not_taken(tmp_path: Path) -> None:
    """torch reads beyond its end, and crashes, also in a later step."""
    toy = build(CASES["sign"])
    with pytest.raises(Stop):
        toy.fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for values in state["optimizer"]["state"].values():
        values["exp_avg_sq"] = torch.zeros(())
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="exp_avg_sq"):
        toy.fit(DATA, tmp_path, resume=True)
    assert all(values["exp_avg_sq"].shape == p.shape for p, values in toy.optimizer.state.items())


def test_a_row_without_its_checkpoint_is_dropped(tmp_path: Path, whole: Any) -> None:
    """The process may die between the two writes."""
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    checkpoint = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, resume=True, on_epoch=stop_after_epoch(2))
    (tmp_path / "last.ckpt").write_bytes(checkpoint)
    build(CASES["sign"]).fit(DATA, tmp_path, resume=True)
    assert everything(tmp_path) == whole("sign")


@pytest.mark.parametrize("name", ["sign", "stochastic", "average"])
@pytest.mark.parametrize("left", ["old", "none"])
def test_the_best_weights_are_those_of_the_checkpoint(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch, name: str, left: str
) -> None:
    """The process may die after the checkpoint of an epoch and before its best weights."""
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


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5, 9]),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=13),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.ConstantLR(o, 0.5, 3), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
            milestones=[5],
        ),
    ],
    ids=["cosine", "multistep", "one cycle", "warm restarts", "sequential"],
)
def test_the_schedulers_of_torch_go_on_too(tmp_path: Path, scheduler: Any) -> None:
    runs = []
    for stop in (None, 2):
        folder = tmp_path / str(stop)
        toy = build(dataclasses.replace(CASES["sign"], schedule=None))
        toy.schedule = scheduler(toy.optimizer)
        if stop is not None:
            with pytest.raises(Stop):
                toy.fit(DATA, folder, on_epoch=stop_after_epoch(stop))
            toy = build(dataclasses.replace(CASES["sign"], schedule=None))
            toy.schedule = scheduler(toy.optimizer)
        toy.fit(DATA, folder, resume=True)
        runs.append(everything(folder))
    assert runs[0] == runs[1]


def test_a_training_that_was_interrupted_goes_on_with_its_own_optimizer_and_schedule(tmp_path: Path) -> None:
    """As in a notebook after Ctrl-C: the rate has moved since the checkpoint, but its course is the same."""
    toy = build(dataclasses.replace(CASES["sign"], schedule=None))
    toy.schedule = torch.optim.lr_scheduler.MultiStepLR(toy.optimizer, [6])  # an epoch has 4 steps
    with pytest.raises(Stop):
        toy.fit(DATA, tmp_path, on_step=stop_at_step(7))
    assert len(toy.fit(DATA, tmp_path, resume=True)) == EPOCHS


@pytest.mark.parametrize("schedule", ["cosine", None])
def test_an_interrupt_before_the_first_checkpoint_is_told_to_the_same_objects(tmp_path: Path, schedule: Any) -> None:
    """The weights, the optimizer and the schedule are not those of a beginning any more."""
    toy = build(dataclasses.replace(CASES["sign"], schedule=schedule))
    with pytest.raises(Stop):
        toy.fit(DATA, tmp_path, on_step=stop_at_step(2))
    with pytest.warns(UserWarning, match="checkpoint"):
        toy.fit(DATA, tmp_path, resume=True)


class Deep(nn.Module):
    """A forward that draws from the generators of Python and numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first = x + self.layers[0](x) if random.random() < 0.5 else x
        return first + self.layers[1](first) * float(np.random.random())


class Counting(nn.Module):
    """Counts its passes of training in a buffer, and depends on their number."""

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
        return self.net(x.flatten(1) / (255 + self.passes))


@pytest.mark.parametrize("assigns", [True, False])
@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_of_forward_count_passes_of_training_alone_and_are_resumed(
    tmp_path: Path, assigns: bool, persistent: bool
) -> None:
    results = []
    for stops in (False, True):
        folder = tmp_path / str(stops)
        if stops:
            _count(folder, assigns, persistent, on_epoch=stop_after_epoch(1))
        model = _count(folder, assigns, persistent, resume=stops)
        assert model.passes == 3 * 5
        results.append(model.net.weight.tolist())
    assert results[0] == results[1]


def _count(folder: Path, assigns: bool, persistent: bool, **options: Any) -> Counting:
    model = Counting(assigns=assigns, persistent=persistent)
    with contextlib.suppress(Stop):
        optimizer = torch.optim.Adam(latent_groups(model, lr=0.01))
        fit(model, DATA, optimizer, epochs=3, batch_size=30, folder=folder, **options)
    return model


def test_draws_of_python_and_numpy_in_forward_are_resumed(tmp_path: Path) -> None:
    x, y = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 6

    def train(folder: Path, **options: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = Deep()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, (x, y), optimizer, epochs=3, batch_size=16, folder=folder, **options)
        return model.state_dict()

    before = random.getstate(), np.random.get_state()[1].tolist()
    expected = train(tmp_path / "whole")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.random(), np.random.random()
    with pytest.raises(Stop):
        train(tmp_path / "parts", on_epoch=stop_after_epoch(1))
    random.random(), np.random.random()
    found = train(tmp_path / "parts", resume=True)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --------------------------------------------------------------------------------------------------------------- kills
KILLS = {
    "epoch": ("stochastic", "step", 7),  # the seventh step, in the middle of the second epoch
    "checkpoint": ("own generator", "write", 5),  # the bytes of the second last.ckpt, not yet renamed
    "best": ("sign", "write", 7),
}
KILLED = """
import os, signal
from pathlib import Path
from support.toy_training import CASES, DATA, build
import onebit.common.files

def train(folder, case, what, count):
    done = 0
    def die(kind):
        nonlocal done
        done += kind == what
        if done == count:
            os.kill(os.getpid(), signal.SIGKILL)
    onebit.common.files._fsync = lambda path, flags: die("write") if flags == os.O_RDWR else None
    build(CASES[case]).fit(DATA, Path(folder), on_step=lambda *_: die("step"))

build(CASES["sign"])  # imports what an optimizer needs, once for all children
for name, (case, what, count) in {kills!r}.items():
    child = os.fork()
    if child == 0:
        train(os.path.join({folder!r}, name), case, what, count)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of run folders, each left behind by a process that was killed."""
    folder = tmp_path_factory.mktemp("killed")
    code = KILLED.format(kills=KILLS, folder=str(folder))
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    return folder


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


# ------------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (Case(), {"seed": 1}, "was trained with seed = 0, this run has 1"),
        (Case(), {"batch_size": 16}, "was trained with batch_size = 32, this run has 16"),
        (Case(), {"epochs": 4}, "was trained with total_steps = 12, this run has 16"),
        (Case(precision="bf16"), {}, "was trained with precision = 'fp32', this run has 'bf16'"),
        (Case(loss="hinge"), {}, "was trained with loss = 'squared_hinge', this run has 'hinge'"),
        (Case(optimizer="sgd"), {}, "was trained with optimizer = 'Adam', this run has 'SGD'"),
        (Case(schedule=None), {}, "was trained with schedule = 'LambdaLR', this run has 'NoneType'"),
        (Case("ste_sign"), {}, "with quantizers = "),
        (Case("stochastic", generator=True), {}, "was trained with quantizers"),
        (Case(augmentation=Augmentation(flip=True)), {}, "was trained with augmentation = 'None'"),
        (Case(step={"clip_grad_norm": 0.1}), {}, "was trained with step = "),
        (Case(ema=0.9), {}, "was trained with ema = 0.0, this run has 0.9"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, case: Case, options: dict[str, Any], message: str) -> None:
    build(Case()).fit(DATA, tmp_path, epochs=EPOCHS)
    before = everything(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        build(case).fit(DATA, tmp_path, resume=True, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == before


SMOOTHED = [functools.partial(cross_entropy, label_smoothing=share) for share in (0.0, 0.1)]
LOSSES = [nn.CrossEntropyLoss(label_smoothing=share) for share in (0.0, 0.1)]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (Case(), Case(lr=0.5), "initial_lr"),
        (Case(schedule=None), Case(schedule=None, lr=0.5), "lr = 0.02"),
        (Case(loss=SMOOTHED[0]), Case(loss=SMOOTHED[1]), "label_smoothing"),
        (Case(loss=LOSSES[0]), Case(loss=LOSSES[1]), "label_smoothing"),
        (Case(), Case(schedule="linear"), "name = 'cosine'"),
        (Case(inputs="ste_sign"), Case(inputs="swish_sign"), "input quantizers"),
    ],
)
def test_other_options_of_the_same_objects_are_refused(tmp_path: Path, before: Case, now: Case, message: str) -> None:
    with pytest.raises(Stop):
        build(before).fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    other = build(now)
    weights = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        other.fit(DATA, tmp_path, resume=True)
    assert message in str(caught.value)
    assert all(torch.equal(value, weights[name]) for name, value in other.model.state_dict().items())
    build(before).fit(DATA, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (nn.ReLU(), nn.Hardtanh(), "modules.2"),
        (nn.Dropout(0.2), nn.Dropout(0.5), "modules.2"),
        (nn.Dropout(0.2), None, "this run has None"),
    ],
)
def test_another_net_with_weights_of_the_same_shapes_is_refused(
    tmp_path: Path, before: nn.Module, now: nn.Module | None, message: str
) -> None:
    def train(layer: nn.Module | None, **options: Any) -> None:
        layers = [nn.Flatten(), BinaryLinear(4, 3), *([] if layer is None else [layer])]
        model = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(latent_groups(model, lr=0.01))
        data = (torch.arange(64.0).view(16, 4) / 64, torch.arange(16) % 3)
        fit(model, data, optimizer, epochs=2, batch_size=4, folder=tmp_path, precision="fp32", **options)

    with pytest.raises(Stop):
        train(before, on_epoch=stop_after_epoch(1))
    with pytest.raises(CheckpointError) as caught:
        train(now, resume=True)
    assert message in str(caught.value)
    train(before, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.5, 0.999)}, "betas"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"latent_clip": 2.0}, "latent_clip"),
    ],
)
def test_other_options_of_an_optimizer_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    toy = build(CASES["sign"])
    toy.optimizer.param_groups[0] |= options
    with pytest.raises(CheckpointError) as caught:
        toy.fit(DATA, tmp_path, resume=True)
    assert message in str(caught.value)


def test_a_rate_that_training_moves_is_no_other_one(tmp_path: Path, whole: Any) -> None:
    """Interrupted between two epochs, the same objects are further than their checkpoint."""
    for name in ("prox", "bop", "bayesbinn"):
        toy, folder = build(CASES[name]), tmp_path / name
        with pytest.raises(Stop):
            toy.fit(DATA, folder, on_step=stop_at_step(7))
        toy.fit(DATA, folder, resume=True)
        assert everything(folder) == whole(name)


class Slower(torch.optim.Optimizer):
    """A step that its groups count from the first one on, as in optimizers of timm and apex."""

    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for parameter in group["params"]:
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-group["lr"] / group["count"])


class Phases(torch.optim.lr_scheduler.LRScheduler):
    """A rate that depends on a phase with a name."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.phase = "warm"
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        self.phase = "late" if self.phase == "late" or self.last_epoch > 3 else "warm"
        return [0.1 if self.phase == "warm" else 0.01 for _ in self.base_lrs]


def test_what_an_optimizer_or_a_schedule_of_the_user_sets_on_its_way_goes_on(tmp_path: Path) -> None:
    def make() -> Any:
        toy = build(CASES["real"])
        toy.optimizer = Slower(toy.model.parameters())
        toy.schedule = Phases(toy.optimizer)
        return toy

    make().fit(DATA, tmp_path / "whole")
    with pytest.raises(Stop):
        make().fit(DATA, tmp_path / "parts", on_epoch=stop_after_epoch(2))
    make().fit(DATA, tmp_path / "parts", resume=True)
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


@pytest.mark.parametrize(("name", "switch"), [("sign", "amsgrad"), ("nadam", "decoupled_weight_decay")])
def test_an_optimizer_with_another_switch_is_refused(tmp_path: Path, name: str, switch: str) -> None:
    """Its states are others: without this, torch would miss them in the first step."""
    with pytest.raises(Stop):
        build(CASES[name]).fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    toy = build(CASES[name])
    toy.optimizer.param_groups[0][switch] = True
    with pytest.raises(CheckpointError, match=switch):
        toy.fit(DATA, tmp_path, resume=True)


def test_other_pixels_with_the_same_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    images = DATA.validation.images.copy()
    images[-1] ^= 255
    for change in (
        {"train": Split(255 - DATA.train.images, DATA.train.labels)},
        {"validation": Split(images, DATA.validation.labels)},
    ):
        with pytest.raises(CheckpointError, match="data"):
            build(CASES["sign"]).fit(dataclasses.replace(DATA, **change), tmp_path, resume=True)


def test_other_data_and_other_generators_are_refused(tmp_path: Path) -> None:
    build(CASES["stochastic"]).fit(DATA, tmp_path)
    with pytest.raises(CheckpointError, match="training images = 129, this run has 128"):
        build(CASES["stochastic"]).fit(dataclasses.replace(DATA, train=DATA.train[:128]), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="training images = 129, this run has 65"):
        build(CASES["stochastic"]).fit(dataclasses.replace(DATA, train=DATA.train[:65]), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"was trained with generators = \[\], this run has \['linear1"):
        build(CASES["own generator"]).fit(DATA, tmp_path, resume=True)


def test_another_thread_count_is_said(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        build(CASES["sign"]).fit(DATA, tmp_path, on_epoch=stop_after_epoch(1))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=f"had {threads} threads and continues with {threads + 1}") as caught:
            build(CASES["sign"]).fit(DATA, tmp_path, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(CASES["sign"]).fit(DATA, tmp_path, resume=True)  # no step is left


# --------------------------------------------------------------------------------------------------------- determinism
@pytest.mark.parametrize("name", ["sign", "stochastic", "own generator", "dropout", "augmentation", "sign bf16"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path, whole: Any, name: str) -> None:
    for folder in ("again", "other"):
        torch.manual_seed(12345)
        seed = 0 if folder == "again" else 1
        build(CASES[name], seed=seed).fit(DATA, tmp_path / folder, seed=seed)
    assert everything(tmp_path / "again") == whole(name)
    assert (tmp_path / "other" / "final.safetensors").read_bytes() != whole(name)["final"]


@pytest.mark.parametrize("name", ["sign", "stochastic", "dropout"])
def test_the_seed_of_fit_alone_changes_the_run(name: str) -> None:
    """The same initial weights, another order: the seed is used beyond the initialization."""
    states = []
    for seed in (0, 1):
        toy = build(CASES[name])
        toy.fit(DATA, seed=seed)
        states.append(flat(toy.model.state_dict()))
    assert states[0] != states[1]


def test_writing_files_and_calling_hooks_changes_nothing(tmp_path: Path) -> None:
    quiet, loud = build(CASES["stochastic"]), build(CASES["stochastic"])
    quiet.fit(DATA)
    loud.fit(DATA, tmp_path, on_step=lambda *_: None, on_epoch=lambda _: None)
    assert flat(quiet.model.state_dict()) == flat(loud.model.state_dict())


def test_validation_does_not_change_the_training() -> None:
    """Neither its draws nor its BatchNorm statistics reach the weights."""
    for name in ("sign", "stochastic", "dropout"):
        states = []
        for data in (DATA, dataclasses.replace(DATA, validation=DATA.validation[:0])):
            toy = build(CASES[name])
            toy.fit(data)
            states.append(flat(toy.model.state_dict()))
        assert states[0] == states[1]
