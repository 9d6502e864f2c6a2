"""`fit`: its log and its files."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from onebit.__main__ import main
from onebit.evaluation.modes import evaluate
from onebit.layers import BinaryLinear, batch_norms, binary_layers
from onebit.optim import clip_latents_, latent_groups
from onebit.train import checkpoint
from onebit.train.history import EpochLog
from onebit.train.loop import fit
from onebit.train.step import BatchLog, BatchWatch
from onebit.train.weights import load_weights, read_weights
from support.toy_training import CASES, DATA, Case, build, flat, toy_data


# -------------------------------------------------------------------------------------------------------------- files
def fill_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", [[], ["--first_stage", "1"], ["--continual.tasks", "2", "--draws", "0"]])
def test_a_folder_of_a_run_that_saved_nothing_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    flags = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--epochs", "1", "--batch_size", "256", *command]
    train = ["train", *flags, "--device", "cpu", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as full:
        full.setattr(checkpoint, "write_atomic", fill_disk)
        assert main(train) == 2
    assert (tmp_path / "run" / "recipe.yaml").exists()
    assert main([*train, "--lr", "0.02"]) == 0
    assert main(train) == 2  # it holds a run now


# ---------------------------------------------------------------------------------------------------------------- log
def test_the_log_holds_what_was_measured(tmp_path: Path) -> None:
    toy, rows = build(Case("sign")), []
    history = toy.fit(DATA, tmp_path, on_epoch=rows.append)
    assert rows == history.rows
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [dataclasses.asdict(row) for row in rows]
    assert set(lines[0]) == {
        *("epoch", "epochs", "step", "train_loss", "train_error", "validation_loss", "validation_error"),
        *("validation_weights", "lr", "seconds", "flip_ratio", "saturation", "images_per_second", "layers"),
        *("validation_mean_iou", "best", "train_metrics", "validation_metrics", "small", "tokens_per_second"),
    }
    assert [row.epoch for row in rows] == [1, 2, 3]
    for row in rows:
        assert 0 < row.flip_ratio < 1
        assert 0 <= row.saturation < 1
        assert row.seconds > 0
        assert row.images_per_second > 129 / row.seconds  # training alone is shorter


def test_the_flip_ratio_of_an_epoch_is_since_the_epoch_before() -> None:
    toy, signs = build(Case("sign", lr=0.05)), []

    def read(*_: object) -> None:
        signs.append(torch.cat([(layer.weight.detach() >= 0).flatten() for _, layer in binary_layers(toy.model)]))

    read()
    history = toy.fit(DATA, on_epoch=read)
    expected = [float((a != b).double().mean()) for a, b in itertools.pairwise(signs)]
    assert [row.flip_ratio for row in history] == pytest.approx(expected)


def test_without_a_validation_split_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    history = build(Case("sign")).fit(toy_data(validation=0), str(tmp_path))
    assert all(row.validation_error is None and row.validation_loss is None for row in history)
    assert history.best is history.rows[-1]
    assert history.best.best is None
    assert "validation" not in str(history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.safetensors", "last.ckpt", "metrics.jsonl"]


@pytest.mark.parametrize(("quantizer", "mode"), [("sign", "binary"), ("stochastic", "binary"), (None, "real")])
def test_validation_is_the_evaluation_of_the_weights_that_ship(quantizer: str | None, mode: str) -> None:
    toy = build(Case(quantizer))
    for norm in batch_norms(toy.model):
        norm.momentum = 0.5
    scores = []

    def check(row: EpochLog) -> None:
        bn = "reestimate" if quantizer == "stochastic" or row.step < 5 / 0.5 else "trained"
        options = {"weights": "binary", "loss": "squared_hinge", "train": DATA.train, "bn": bn}
        score = evaluate(toy.model, DATA.validation, **options)
        scores.append((score.loss, score.error, score.weights))
        toy.model.train()

    history = toy.fit(DATA, on_epoch=check)
    assert [(row.validation_loss, row.validation_error, row.validation_weights) for row in history] == scores
    assert {row.validation_weights for row in history} == {mode}
    assert [row.step < 10 for row in history] == [True, True, False]


@pytest.mark.parametrize("name", ["sign", "stochastic", "dropout"])
def test_validation_changes_neither_weights_nor_batch_norm(name: str) -> None:
    states = []
    for data in (DATA, dataclasses.replace(DATA, validation=DATA.validation[:0])):
        toy, after = build(CASES[name]), []
        toy.fit(data, on_epoch=lambda row, toy=toy, after=after: after.append(flat(toy.model.state_dict())))
        states.append(after)
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("quantizer", "momentum", "settled"),
    [
        *(("sign", 0.1, False), ("sign", 0.5, True), ("sign", None, True)),
        *((quantizer, 0.5, False) for quantizer in ("stochastic", "concrete_sign", "prox")),
    ],
)
def test_batch_norm_belongs_to_the_weights_that_ship(quantizer: str, momentum: float | None, settled: bool) -> None:
    toy, trained = build(Case(quantizer)), dict[str, Any]()  # 12 steps; statistics settle after 5 / momentum
    for norm in batch_norms(toy.model):
        norm.momentum = momentum
    toy.fit(DATA, on_epoch=lambda row: trained.update(flat(toy.model.state_dict())))
    assert (flat(toy.model.state_dict()) == trained) is settled
    stored = evaluate(toy.model, DATA.test)  # refused if its statistics belonged to other weights
    again = evaluate(toy.model, DATA.test, bn="reestimate", train=DATA.train)
    assert ((stored.correct, stored.loss) != (again.correct, again.loss)) is settled


@pytest.mark.parametrize("batch", [1, 16])
def test_frozen_batch_norm_keeps_its_statistics(tmp_path: Path, batch: int) -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self[1].eval()
            return self

    torch.manual_seed(0)
    model = Frozen(BinaryLinear(4, 3), nn.BatchNorm1d(3), BinaryLinear(3, 2, True))
    model[1].running_mean.fill_(0.5)
    x = torch.randn(32, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=batch)
    fit(model, loader, clip_latents_(torch.optim.Adam(latent_groups(model, lr=0.01))), epochs=1, folder=tmp_path)
    assert model[1].running_mean.tolist() == [0.5] * 3
    assert (tmp_path / "final.safetensors").exists()


def test_on_step_is_called_after_each_step() -> None:
    steps = []
    build(Case("sign")).fit(DATA, on_step=lambda *step: steps.append(step))
    assert steps == [(step, 12) for step in range(1, 13)]


def test_every_nth_batch_and_the_last_one_are_logged() -> None:
    rows: list[BatchLog] = []
    build(Case()).fit(DATA, epochs=2, batch_watch=BatchWatch(3, rows.append))
    assert [(row.epoch, row.batch, row.batches) for row in rows] == [(1, 3, 4), (1, 4, 4), (2, 3, 4), (2, 4, 4)]
    assert str(rows[0]).startswith("epoch 1, step 3/4: loss ")


def test_logged_batches_add_up_to_the_epoch_and_change_nothing() -> None:
    rows: list[BatchLog] = []
    (watched,) = build(Case()).fit(DATA, epochs=1, batch_watch=BatchWatch(1, rows.append))
    (row,) = build(Case()).fit(DATA, epochs=1)
    assert watched.train_loss == row.train_loss
    sizes = [32, 32, 32, 33]
    assert sum(log.loss * n for log, n in zip(rows, sizes, strict=True)) / 129 == pytest.approx(row.train_loss)
    right = sum(log.accuracy * n for log, n in zip(rows, sizes, strict=True))
    assert 1 - right / 129 == pytest.approx(row.train_error)


# -------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("name", ["sign", "stochastic", "real"])
def test_the_best_weights_are_those_of_the_best_epoch(tmp_path: Path, name: str) -> None:
    case = dataclasses.replace(CASES[name], lr=0.2, schedule=None)  # so high that the last epoch is not the best
    history = build(case).fit(DATA, tmp_path, epochs=6, facts={"recipe": {"name": "toy"}})
    assert name != "real" or all(row.flip_ratio == row.saturation == 0 for row in history)
    errors = [row.validation_error for row in history]
    assert history.best.epoch == errors.index(min(errors)) + 1 != 6
    state, facts = read_weights(tmp_path / "best.safetensors")
    best = {"epoch": history.best.epoch, "validation_error": history.best.validation_error}
    assert facts == {"recipe": {"name": "toy"}, **best}
    fresh = build(case, seed=5).model
    load_weights(fresh, state, source="best")
    score = evaluate(fresh, DATA.validation, loss="squared_hinge" if case.loss == "squared_hinge" else "cross_entropy")
    assert (score.error, score.loss) == (history.best.validation_error, history.best.validation_loss)
