"""`fit`: runs that diverge, wrong options, and interrupts."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

import onebit.common.files
from onebit.errors import CheckpointError, OnebitError, TrainingError, UsageError
from onebit.evaluation.losses import cross_entropy
from support.toy_training import DATA, Case, Stop, build, loss_that_breaks, stop_at_step, toy_data


# ---------------------------------------------------------------------------------------------------------- divergence
@pytest.mark.parametrize(("value", "at", "epoch"), [(math.nan, 4, 1), (math.inf, 5, 2), (-math.inf, 11, 3)])
def test_a_loss_that_is_not_finite_stops_at_its_epoch_and_step(
    tmp_path: Path, value: float, at: int, epoch: int
) -> None:
    toy, kept, last, loss = build(Case("sign")), [b""], tmp_path / "last.ckpt", loss_that_breaks(at, value)
    with pytest.raises(TrainingError) as caught:
        toy.fit(DATA, tmp_path, loss=loss, on_epoch=lambda row: kept.append(last.read_bytes()))
    text = str(caught.value)
    assert f"{value} in epoch {epoch}, step {at}:" in text
    assert len(kept) == epoch
    if epoch > 1:
        assert str(last) in text
        assert last.read_bytes() == kept[-1]
    else:
        assert not last.exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == epoch - 1


def test_a_long_epoch_is_stopped_before_its_end() -> None:
    steps = []
    with pytest.raises(TrainingError, match=r"epoch 1, step 7:"):
        build(Case("sign", schedule=None)).fit(
            toy_data(400, 8), batch_size=2, loss=loss_that_breaks(7, math.nan), on_step=lambda *s: steps.append(s)
        )
    assert len(steps) == 50


def test_the_first_of_several_bad_steps_is_named() -> None:
    toy = build(Case("sign", schedule=None))
    with torch.no_grad():
        toy.model.norm1.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"epoch 1, step 1:"):
        toy.fit(DATA)


@pytest.mark.parametrize("quantizer", ["sign", None])
def test_nan_weights_are_never_saved(tmp_path: Path, quantizer: str | None) -> None:
    """The sign of NaN is +1: a binary net may go on with a finite loss. Here only the gradient breaks, in epoch 2."""
    calls = 0

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += logits.requires_grad
        found = cross_entropy(logits, labels)
        if calls == 8 and logits.requires_grad:
            found = found + (logits - logits.detach()).abs().sum().sqrt()  # 0, with a gradient of 0/0
        return found

    toy = build(Case(quantizer))
    with pytest.raises(TrainingError, match=r"linear1\.weight .* epoch 2, step 8:"):
        toy.fit(DATA, tmp_path, loss=loss)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert json.loads(held["rows"][-1])["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in held["model"].values())


# ------------------------------------------------------------------------------------------- wrong options, interrupts
@pytest.mark.parametrize(("name", "value", "noun"), [("epochs", 0.01, "epochs"), ("loss", "hing", "hinge")])
def test_wrong_options_are_refused(tmp_path: Path, name: str, value: Any, noun: str) -> None:
    with pytest.raises(UsageError, match=noun):
        build(Case("sign")).fit(DATA, tmp_path, **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_what_needs_a_validation_figure_is_refused_without_one() -> None:
    toy = build(Case("sign", schedule=None))
    plateau = ReduceLROnPlateau(toy.optimizer)
    for options in ({"patience": 1}, {"schedule": plateau}):
        with pytest.raises(UsageError, match="validation"):
            toy.fit(toy_data(validation=0), **options)
    with pytest.raises(UsageError, match="max"):
        toy.fit(DATA, schedule=ReduceLROnPlateau(toy.optimizer, mode="max"))


# --------------------------------------------------------------------------------------------------------- early stops
@pytest.mark.parametrize("patience", [1, 2])
def test_patience_stops_after_epochs_that_are_no_better(tmp_path: Path, patience: int) -> None:
    toy = build(Case("sign", lr=1e-12, schedule=None))  # learns nothing: no epoch is better than the first
    history = toy.fit(DATA, tmp_path, epochs=9, patience=patience)
    assert (len(history), history.best.epoch, history.rows[-1].epochs) == (1 + patience, 1, 9)
    assert (tmp_path / "final.safetensors").exists()
    assert not toy.model.training
    again = build(Case("sign", lr=1e-12, schedule=None)).fit(DATA, tmp_path, epochs=9, patience=patience, resume=True)
    assert len(again) == 1 + patience  # a finished run is finished
    with pytest.raises(CheckpointError, match="patience"):
        build(Case("sign", lr=1e-12, schedule=None)).fit(DATA, tmp_path, epochs=9, patience=8, resume=True)


def test_patience_does_not_stop_a_run_that_learns() -> None:
    history = build(Case("sign", schedule=None)).fit(toy_data(512, 128), epochs=2, patience=1)
    assert history.rows[1].validation_error < history.rows[0].validation_error  # type: ignore[operator]
    assert len(history) == 2


@pytest.mark.parametrize("no", [False, np.False_])
def test_a_run_ends_after_an_epoch_of_which_on_epoch_returns_false(tmp_path: Path, no: Any) -> None:
    toy = build(Case("sign"))
    history = toy.fit(DATA, tmp_path, on_epoch=lambda row: no if row.epoch == 2 else 0)
    assert [row.epoch for row in history] == [1, 2]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"best.safetensors", "final.safetensors"}
    assert not toy.model.training


def test_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="samples"):
        build(Case("sign")).fit(dataclasses.replace(DATA, train=DATA.train[:0]))


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stop):
        build(Case("sign")).fit(DATA, tmp_path, on_step=stop_at_step(5))
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(path: Path, flags: int) -> None:
        if path.suffix == ".ckpt":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(onebit.common.files, "_fsync", full)
    with pytest.raises(OnebitError, match=r"last\.ckpt.*space") as caught:
        build(Case("sign")).fit(DATA, tmp_path, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    kept = [value for frame, _ in walk_tb(caught.tb) for value in frame.f_locals.values()]
    # in a cycle with the error, the view of a BytesIO crashes the garbage collector of Python 3.12.1
    assert not any(isinstance(value, memoryview) for value in kept)


def test_ctrl_c_during_a_write_ends_the_run_after_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []

    def interrupted(path: Path, flags: int) -> None:
        writes.append(path.suffix)
        if writes.count(".ckpt") == 2 and path.suffix == ".ckpt":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(onebit.common.files, "_fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(Case("sign")).fit(DATA, tmp_path)
    assert json.loads(torch.load(tmp_path / "last.ckpt", weights_only=True)["rows"][-1])["epoch"] == 2
    assert not list(tmp_path.glob(".onebit-*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
