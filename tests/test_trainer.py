"""`Trainer`: the same training as the command line's, evaluated, asked for predictions, and drawn."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import onebit
from onebit.cli.train_command import read_command, train_request
from onebit.data import Dataset, make_toy
from onebit.errors import UsageError
from onebit.evaluation.modes import evaluate
from onebit.layers import BinaryLinear, InputCoding, binary_layers
from onebit.models import MLP
from onebit.quantizers import Sign
from onebit.runs.opening import open_run

OWN: dict[str, Any] = {"batch_size": 32, "device": "cpu", "precision": "fp32"}
"""Settings for a module."""
SMALL: dict[str, Any] = {"options": {"widths": (64, 16, 4)}, "batch_size": 32, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data() -> Dataset:
    train, test = make_toy(160, 60)
    return Dataset("toy", train, test[:20], test[20:], tuple("abcd"))


@pytest.mark.parametrize("method", ["bnn", "bayesbinn", "real"])
def test_three_lines_train_and_evaluate(data: Dataset, method: str) -> None:
    trainer = onebit.Trainer("mlp", method, epochs=2, **SMALL)
    history = trainer.fit(data)
    assert len(history) == 2
    assert trainer.history is history
    score = trainer.evaluate()
    assert score.weights == ("real" if method == "real" else "binary")
    assert score == evaluate(trainer.model, data.test, loss=trainer.recipe.loss)
    assert trainer.evaluate("train").count == 160


def test_a_trainer_prints_what_it_is_and_how_it_went(data: Dataset) -> None:
    trainer = onebit.Trainer(MLP((64, 16, 4), weight_quantizer="sign", real_last=True), "binaryconnect", **OWN)
    assert str(trainer) == "MLP with binaryconnect, not trained yet"
    trainer.fit(data, epochs=1)
    first, went, size = str(trainer).splitlines()
    assert first == "MLP with binaryconnect on toy"
    assert went.startswith("1 epoch, ")
    assert "validation error" in went
    assert size.startswith("94.1 % of the weights binary, "), "the last layer, 64 of 1,088 weights, is real"


@pytest.mark.parametrize(
    ("model", "dataset", "method"), [("mlp", "mnist", "bayesbinn"), ("resnet20", "cifar10", "xnor")]
)
def test_the_recipe_is_that_of_the_command_line(method: str, model: str, dataset: str) -> None:
    flags = ["--model", model, "--dataset", dataset, "--epochs", "7", "--optimizer.lr", "0.25"]
    theirs = train_request(read_command([*flags, "--method", method]))
    trainer = onebit.Trainer(model, method, epochs=7, optimizer={"lr": 0.25})
    assert dataclasses.replace(trainer._recipe(dataset), name="same") == dataclasses.replace(theirs, name="same")


def test_each_fit_of_a_named_model_gives_the_same_again(data: Dataset) -> None:
    trainer, seen = onebit.Trainer("mlp", "binaryconnect-stochastic", epochs=1, **SMALL), []
    weights = []
    for _ in range(2):
        picture = trainer.fit(data, on_epoch=seen.append).plot()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*weights)
    assert seen[1:] == trainer.history.rows
    assert picture._repr_png_().startswith(b"\x89PNG")  # type: ignore[union-attr]  # as a notebook shows it


def test_a_module_becomes_binary_and_is_trained_on(data: Dataset) -> None:
    torch.manual_seed(0)
    net = dense(nn.ReLU())
    trainer = onebit.Trainer(net, "ste", epochs=4, batch_size=32, device="cpu")
    first = trainer.fit(data).rows[-1].train_loss
    assert trainer.model is net
    assert [type(layer.weight_quantizer).__name__ for _, layer in binary_layers(net)] == ["Sign", "Sign"]
    assert trainer.fit(data, epochs=6).rows[-1].train_loss < first
    assert trainer.evaluate().accuracy > 0.6


def dense(activation: nn.Module | None = None) -> nn.Sequential:
    """A module with real weights, 64-16-4."""
    torch.manual_seed(3)
    hidden = [nn.Linear(64, 16), nn.BatchNorm1d(16), activation or nn.Identity()]
    return nn.Sequential(InputCoding(), nn.Flatten(), *hidden, nn.Linear(16, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("method", "init", "largest"),
    [
        ("binaryconnect-stochastic", None, 1.0),
        ("binaryconnect", None, 1.0),
        ("binaryconnect", "default", 0.125),
        ("xnor", None, 0.125),
    ],
)
def test_the_initial_latents_of_a_module_are_those_of_the_method(
    data: Dataset, method: str, init: str | None, largest: float
) -> None:
    first = []
    for _ in range(2):
        net = dense()
        options = {} if init is None else {"init": init}
        trainer = onebit.Trainer(net, method, epochs=1, optimizer={"lr": 1e-9}, options=options, **OWN)
        trainer.fit(data)
        first.append(net[2].weight.detach())
        assert (trainer.recipe.model.init == "uniform") == (largest == 1)
    assert 0.9 * largest < float(first[0].abs().max()) <= largest
    assert torch.equal(*first)


def test_binary_inputs_after_a_relu_warn(data: Dataset) -> None:
    with pytest.warns(UserWarning, match="all the same value") as caught:
        onebit.Trainer(dense(nn.ReLU()), "bnn", epochs=1, **OWN).fit(data)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onebit.Trainer(dense(nn.ReLU()), "binaryconnect", epochs=1, **OWN).fit(data)
        onebit.Trainer(dense(), "bnn", epochs=1, **OWN).fit(data)


STE, BOTH = {"weight_quantizer": "ste_sign"}, {"weight_quantizer": "ste_sign", "input_quantizer": "ste_sign"}


@pytest.mark.parametrize(
    ("quantizers", "method", "kind"),
    [
        (STE, "irnet", "weight"),
        (STE, "real", "weight"),
        (STE, "bnn", "input"),
        ({**BOTH, "weight_quantizer": "sign"}, "ste", "input"),
    ],
)
def test_a_binary_module_of_another_method_is_refused(quantizers: dict[str, str], method: str, kind: str) -> None:
    with pytest.raises(UsageError, match=kind):
        onebit.Trainer(MLP((64, 16, 4), **quantizers), method)


def test_a_binary_module_of_the_method_is_trained_as_it_is(data: Dataset) -> None:
    class Own(Sign):
        """A quantizer of no table goes with any method."""

    net = MLP((64, 16, 4), weight_quantizer="stochastic", init="default")
    onebit.Trainer(net, "binaryconnect-stochastic", epochs=1, optimizer={"lr": 1e-9}, **OWN).fit(data)
    assert {type(layer.weight_quantizer).__name__ for _, layer in binary_layers(net)} == {"Stochastic"}
    assert float(net.linear1.weight.detach().abs().max()) < 0.2
    said = onebit.Trainer(MLP((64, 16, 4), **STE), "bnn", epochs=1, options={"input_quantizer": None}, **OWN)
    said.fit(data)
    assert said.recipe.model.input_quantizer is None
    own = nn.Sequential(InputCoding(), nn.Flatten(), BinaryLinear(64, 4, weight_quantizer=Own()), nn.BatchNorm1d(4))
    onebit.Trainer(own, "ste", epochs=1, **OWN).fit(data)


def test_predictions_are_probabilities_of_a_stated_mode(data: Dataset) -> None:
    trainer = onebit.Trainer("mlp", "bayesbinn", epochs=2, **SMALL)
    trainer.fit(data)
    for mode in ("binary", "mean", "ensemble:3"):
        found = trainer.predict(data.test.images, weights=mode)
        assert found.shape == (40, 4)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        right = int((found.argmax(axis=1) == data.test.labels).sum())
        assert right == trainer.evaluate(weights=mode).correct


def test_numbers_that_are_no_pixels_are_refused(data: Dataset) -> None:
    trainer = onebit.Trainer(dense(), "binaryconnect", epochs=1, **OWN)
    trainer.fit(data)
    with pytest.raises(UsageError, match="uint8"):
        trainer.predict(data.test.images / 255.0)
    with pytest.raises(AttributeError, match="tset"):
        trainer.evaluate("tset")


def test_a_run_folder_is_one_of_the_command_line(data: Dataset, tmp_path: Path) -> None:
    trainer = onebit.Trainer("mlp", epochs=1, **SMALL)
    trainer.fit(data, folder=tmp_path)
    run = open_run(tmp_path)
    assert run.recipe == trainer.recipe
    assert evaluate(run.model, data.test, loss=run.recipe.loss) == trainer.evaluate()
    with pytest.raises(UsageError, match="holds a run already"):
        trainer.fit(data, folder=tmp_path)
    assert trainer.fit(data, folder=tmp_path, resume=True).rows == trainer.history.rows


def test_settings_that_do_not_exist_or_would_not_be_used_are_refused(data: Dataset) -> None:
    for settings in ({"method": "bayesbin"}, {"epoch": 3}):
        with pytest.raises(UsageError):
            onebit.Trainer("mlp", **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"optimizer\.gamma"):
        onebit.Trainer("mlp", optimizer={"gamma": 0.5}, **SMALL).fit(data)
    with pytest.raises(UsageError, match="first_stage"):
        onebit.Trainer("mlp", first_stage=1, **SMALL).fit(data)


def test_data_by_name_is_read_as_the_settings_say(data: Dataset) -> None:
    trainer = onebit.Trainer("mlp", epochs=0.1, validation=48, **SMALL)
    trainer.fit("toy")
    assert trainer.recipe.validation == 48
    assert trainer.evaluate("validation").count == 48
    with pytest.raises(UsageError, match="validation"):
        trainer.fit(data)


def test_the_threads_are_those_of_the_settings(data: Dataset) -> None:
    seen, before = [], torch.get_num_threads()
    for model in ("mlp", dense()):
        settings = SMALL if isinstance(model, str) else OWN
        onebit.Trainer(model, threads=before + 1, **settings).fit(
            data, on_epoch=lambda row: seen.append(torch.get_num_threads())
        )
        assert torch.get_num_threads() == before
    assert set(seen) == {before + 1}
