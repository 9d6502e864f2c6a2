"""`Trainer` on data of the user: features, float targets, loaders and images."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import onebit
from onebit.data import load_dataset, make_toy, whiten
from onebit.errors import UsageError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 12))
VALUES = X @ RNG.normal(size=(12, 3))
Y = VALUES.argmax(axis=1)
OWN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "optimizer": {"lr": 0.01}}


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 32),
        nn.BatchNorm1d(32),
        nn.Linear(32, 32),
        nn.BatchNorm1d(32),
        nn.Linear(32, outputs),
        nn.BatchNorm1d(outputs),
    )


def loader(targets: Any) -> DataLoader:
    tensors = torch.from_numpy(X).float(), torch.as_tensor(targets)
    return DataLoader(TensorDataset(*tensors), 16, shuffle=True)


def test_a_module_of_features_is_binarized_trained_and_predicts() -> None:
    model = net()
    trainer = onebit.Trainer(model, "bnn", epochs=12, batch_size=16, **OWN)
    history = trainer.fit((X, Y), validation=(X, Y))
    assert history.rows[-1].validation_error < 0.4 < history.rows[0].train_error  # type: ignore[operator]
    assert trainer.evaluate("validation").error == pytest.approx(history.rows[-1].validation_error)
    assert trainer.evaluate((X, Y)) == trainer.evaluate("train") == trainer.evaluate("validation")
    probabilities = trainer.predict(X[:5])
    assert probabilities.shape == (5, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1, rel=1e-5)
    assert np.array_equal(probabilities, trainer.predict(torch.from_numpy(X[:5]).float()))


def test_a_label_that_fit_ignores_is_ignored_by_evaluate() -> None:
    trainer = onebit.Trainer(net(), "bnn", epochs=1, batch_size=16, class_weights="balanced", **OWN)
    trainer.fit((X, Y), ignore_index=2)
    assert trainer.evaluate("train").count == np.count_nonzero(Y != 2)


@pytest.mark.parametrize(("loss", "targets"), [("mse", VALUES[:, :2]), ("bce", (VALUES[:, :2] > 0).astype(np.float32))])
def test_an_ensemble_predicts_the_mean_of_its_draws(loss: str, targets: np.ndarray) -> None:
    trainer = onebit.Trainer(net(2), "binaryconnect-stochastic", loss=loss, epochs=4, batch_size=16, **OWN)
    trainer.fit((X, targets))
    one, many = (trainer.predict(X, weights=weights, seed=3) for weights in ("sample", "ensemble:30"))
    draws = [trainer.predict(X, weights="sample", seed=seed) for seed in range(30)]
    # two means of 30 draws each differ by less than one draw does
    assert 0 < np.abs(many - np.mean(draws, axis=0)).mean() < 0.4 * np.abs(one - many).mean()
    score = trainer.evaluate((X, targets), weights="ensemble:30", seed=3)
    if loss == "mse":
        assert score.loss == pytest.approx(np.mean((many - targets) ** 2), rel=1e-4)
    else:
        assert score.loss == pytest.approx(-np.log(np.where(targets > 0, many, 1 - many)).mean(), rel=1e-4)
        assert score.metrics["exact_match"] == pytest.approx(((many > 0.5) == (targets > 0)).all(axis=1).mean())


def test_regression_from_a_loader_resumes(tmp_path: Path) -> None:
    def make(**settings: Any) -> onebit.Trainer:
        return onebit.Trainer(net(), "bnn", loss="mse", epochs=4, **OWN, **settings)

    data = loader(VALUES.astype(np.float32))
    trainer = make()
    history = trainer.fit(data, validation=(X, VALUES), metric="r2", folder=tmp_path)
    assert trainer.recipe.batch_size == 16
    assert history.rows[-1].step == 24
    assert trainer.evaluate((X, VALUES)).metrics["r2"] == pytest.approx(history.rows[-1].validation_metrics["r2"])
    assert trainer.predict(X[:2]).shape == (2, 3)
    with pytest.warns(UserWarning, match="DataLoader"):
        again = make().fit(data, validation=(X, VALUES), metric="r2", folder=tmp_path, resume=True)
    assert again.rows == history.rows
    assert history.plot().width > 1000


def test_steps_per_epoch_of_a_loader_without_length() -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return cycle(zip(torch.from_numpy(X).float(), map(int, Y), strict=True))

    def make() -> onebit.Trainer:
        return onebit.Trainer(net(), "bnn", epochs=3, schedule={"name": "linear", "final_lr": 0.0}, **OWN)

    rows = make().fit(DataLoader(Endless(), 15), steps_per_epoch=6).rows
    finite = DataLoader(TensorDataset(torch.from_numpy(X).float(), torch.from_numpy(Y)), 15)
    assert [(row.step, row.lr, row.train_loss) for row in rows] == [
        (row.step, row.lr, row.train_loss) for row in make().fit(finite).rows
    ]
    assert rows[-1].step == 18
    assert rows[-1].lr == 0
    with pytest.raises(UsageError, match="steps_per_epoch"):
        make().fit(DataLoader(Endless(), 15))


def test_images_of_a_pair_train_a_model_by_its_name(tmp_path: Path) -> None:
    train, test = make_toy(64, 40)
    trainer = onebit.Trainer("mlp", epochs=1, batch_size=32, options={"widths": (64, 16, 4)}, device="cpu")
    history = trainer.fit((train.images, train.labels), validation=test, folder=tmp_path)
    assert trainer.evaluate(test).error == pytest.approx(history.rows[-1].validation_error)
    assert trainer.evaluate((test.images, test.labels)) == trainer.evaluate("validation")
    assert (tmp_path / "recipe.yaml").exists()


def test_a_named_model_takes_no_features() -> None:
    with pytest.raises(UsageError, match="uint8"):
        onebit.Trainer("mlp", epochs=1).fit((X, Y))


@pytest.mark.parametrize("setting", [{"whitening": "zca"}, {"permutation": 3}])
def test_others_images_are_prepared_as_those_of_the_training(setting: dict[str, Any]) -> None:
    trainer = onebit.Trainer("mlp", "bnn", epochs=1, options={"widths": (64, 16, 4)}, device="cpu", **setting)
    trainer.fit("toy")
    stored = load_dataset("toy")
    images, labels = stored.test.images, stored.test.labels
    score = trainer.evaluate("test")
    for given in (stored, stored.test, (images, labels)):
        assert trainer.evaluate(given) == score
    if "whitening" in setting:
        assert trainer.evaluate(whiten(stored)) == score
    errors = (trainer.predict(images).argmax(axis=1) != labels).mean()
    assert errors == pytest.approx(score.error)


def test_images_that_come_whitened_are_not_whitened_twice() -> None:
    stored = load_dataset("toy")
    white = whiten(stored)
    own = onebit.Trainer("mlp", "bnn", epochs=1, options={"widths": (64, 16, 4)}, device="cpu")
    own.fit(white)
    assert own.evaluate(white) == own.evaluate(white.test) == own.evaluate()
    assert np.array_equal(pickle.loads(pickle.dumps(white)).prepared(stored.test).images, white.test.images)
