"""Resuming with other settings, data or models is refused, and changes nothing."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from onebit.data import Augmentation, Dataset, Split
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.losses import cross_entropy
from onebit.layers import BinaryLinear
from onebit.native import instruction_set, instruction_sets
from onebit.optim import latent_groups
from onebit.train.loop import fit
from support.toy_training import CASES, DATA, Case, Stop, build, flat, stop_after_epoch

Started = Callable[[Case], Path]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Started:
    """`started(case)`: a copy of the folder of a run that was stopped after its first epoch."""
    known: dict[str, Path] = {}

    def of(case: Case) -> Path:
        if repr(case) not in known:
            known[repr(case)] = tmp_path_factory.mktemp("started")
            with pytest.raises(Stop):
                build(case).fit(DATA, known[repr(case)], on_epoch=stop_after_epoch(1))
        return Path(shutil.copytree(known[repr(case)], tmp_path_factory.mktemp("copy") / "run"))

    return of


@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors"])
def test_without_resume_a_run_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(UsageError, match="run"):
        build(CASES["sign"]).fit(DATA, tmp_path)
    assert (tmp_path / name).read_bytes() == b"whatever"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


SMOOTHED = [functools.partial(cross_entropy, label_smoothing=share) for share in (0.0, 0.1)]
LOSSES = [nn.CrossEntropyLoss(label_smoothing=share) for share in (0.0, 0.1)]
PLAIN = Case()
NO_SCHEDULE = Case(schedule=None)


@pytest.mark.parametrize(
    ("before", "now", "options", "setting"),
    [
        (PLAIN, PLAIN, {"seed": 1}, "seed"),
        (PLAIN, PLAIN, {"batch_size": 16}, "batch_size"),
        (PLAIN, PLAIN, {"epochs": 4}, "epochs"),
        (PLAIN, Case(precision="bf16"), {}, "precision"),
        (PLAIN, Case(loss="hinge"), {}, "loss"),
        (PLAIN, Case(optimizer="sgd"), {}, "optimizer"),
        (PLAIN, NO_SCHEDULE, {}, "schedule"),
        (PLAIN, Case("ste_sign"), {}, "quantizers"),
        (PLAIN, Case(augmentation=Augmentation(flip=True)), {}, "augmentation"),
        (PLAIN, Case(step={"clip_grad_norm": 0.1}), {}, "step"),
        (PLAIN, Case(ema=0.9), {}, "ema"),
        (PLAIN, Case(lr=0.5), {}, "initial_lr"),
        (NO_SCHEDULE, Case(schedule=None, lr=0.5), {}, "lr"),
        (Case(loss=SMOOTHED[0]), Case(loss=SMOOTHED[1]), {}, "label_smoothing"),
        (Case(loss=LOSSES[0]), Case(loss=LOSSES[1]), {}, "label_smoothing"),
        (PLAIN, Case(schedule="linear"), {}, "name"),
        (Case(inputs="ste_sign"), Case(inputs="swish_sign"), {}, "input quantizers"),
        (CASES["stochastic"], CASES["own generator"], {}, "generators"),
    ],
)
def test_other_settings_are_refused(
    started: Started, before: Case, now: Case, options: dict[str, Any], setting: str
) -> None:
    folder, other = started(before), build(now)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    weights = flat(other.model.state_dict())
    with pytest.raises(CheckpointError, match=rf"{setting} = "):
        other.fit(DATA, folder, resume=True, **options)
    assert flat(other.model.state_dict()) == weights
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sign", {"betas": (0.5, 0.999)}),
        ("sign", {"weight_decay": 0.1}),
        ("sign", {"latent_clip": 2.0}),
        ("sign", {"amsgrad": True}),  # the states differ: torch would miss some in the first step
        ("nadam", {"decoupled_weight_decay": True}),
    ],
)
def test_other_options_of_the_optimizer_are_refused(started: Started, name: str, options: dict[str, Any]) -> None:
    toy = build(CASES[name])
    toy.optimizer.param_groups[0] |= options
    with pytest.raises(CheckpointError, match=next(iter(options))):
        toy.fit(DATA, started(CASES[name]), resume=True)


def other_data() -> dict[str, Dataset]:
    images = DATA.validation.images.copy()
    images[-1] ^= 255
    return {
        "train": dataclasses.replace(DATA, train=Split(255 - DATA.train.images, DATA.train.labels)),
        "validation": dataclasses.replace(DATA, validation=Split(images, DATA.validation.labels)),
        "fewer": dataclasses.replace(DATA, train=DATA.train[:128]),
    }


@pytest.mark.parametrize("change", other_data())
def test_other_data_are_refused(started: Started, change: str) -> None:
    with pytest.raises(CheckpointError, match="images" if change == "fewer" else "data"):
        build(CASES["sign"]).fit(other_data()[change], started(CASES["sign"]), resume=True)


@pytest.mark.filterwarnings("ignore:resuming at the start")
def test_other_batches_of_a_custom_sampler_are_refused(tmp_path: Path) -> None:
    samples, stop = TensorDataset(torch.rand(16, 4), torch.arange(16) % 3), {"on_epoch": stop_after_epoch(1)}
    for count, epochs, error, options in ((4, 2, Stop, stop), (8, 1, CheckpointError, {"resume": True})):
        model, loader = (
            BinaryLinear(4, 3),
            DataLoader(samples, batch_sampler=[[2 * i, 2 * i + 1] for i in range(count)]),
        )
        optimizer = torch.optim.Adam(latent_groups(model, lr=0.01))
        with pytest.raises(error):
            fit(model, loader, optimizer, epochs=epochs, folder=tmp_path, **options)


@pytest.mark.parametrize(
    ("before", "now"), [(nn.ReLU(), nn.Hardtanh()), (nn.Dropout(0.2), nn.Dropout(0.5)), (nn.Dropout(0.2), None)]
)
def test_another_model_with_weights_of_the_same_shapes_is_refused(
    tmp_path: Path, before: nn.Module, now: nn.Module | None
) -> None:
    def train(layer: nn.Module | None, **options: Any) -> None:
        model = nn.Sequential(nn.Flatten(), BinaryLinear(4, 3), *([] if layer is None else [layer]))
        optimizer = torch.optim.Adam(latent_groups(model, lr=0.01))
        data = (torch.arange(64.0).view(16, 4) / 64, torch.arange(16) % 3)
        fit(model, data, optimizer, epochs=2, batch_size=4, folder=tmp_path, precision="fp32", **options)

    with pytest.raises(Stop):
        train(before, on_epoch=stop_after_epoch(1))
    with pytest.raises(CheckpointError, match="modules"):
        train(now, resume=True)
    train(before, resume=True)


def test_a_single_number_instead_of_the_state_of_a_layer_is_refused(started: Started) -> None:
    """torch would read beyond its end."""
    folder, toy = started(CASES["sign"]), build(CASES["sign"])
    state = torch.load(folder / "last.ckpt", weights_only=True)
    for values in state["optimizer"]["state"].values():
        values["exp_avg_sq"] = torch.zeros(())
    torch.save(state, folder / "last.ckpt")
    with pytest.raises(CheckpointError, match="exp_avg_sq"):
        toy.fit(DATA, folder, resume=True)
    assert not toy.optimizer.state


def test_a_number_instead_of_a_switch_of_the_optimizer_is_refused(started: Started) -> None:
    folder = started(CASES["sign"])
    state = torch.load(folder / "last.ckpt", weights_only=True)
    state["optimizer"]["param_groups"][0]["maximize"] = 10**30
    torch.save(state, folder / "last.ckpt")
    with pytest.raises(CheckpointError, match="maximize"):
        build(CASES["sign"]).fit(DATA, folder, resume=True)


@pytest.mark.skipif(not instruction_sets(), reason="without the native library")
def test_other_kernels_are_a_warning(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(CASES["sign"])
    monkeypatch.setenv("ONEBIT_NATIVE", str(int(instruction_set() is None)))
    with pytest.warns(UserWarning, match="kernels"):
        build(CASES["sign"]).fit(DATA, folder, resume=True)


def test_another_thread_count_is_a_warning(started: Started) -> None:
    folder, threads = started(CASES["sign"]), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=f"{threads} threads") as caught:
            build(CASES["sign"]).fit(DATA, folder, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(CASES["sign"]).fit(DATA, folder, resume=True)  # no step is left
