"""Data and batches of every form: dicts, lists of samples, names of classes, padded labels, outputs with logits."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset, default_collate

import onebit
from onebit.data import Dataset, make_toy
from onebit.errors import DataError, UsageError
from onebit.layers import BinaryLinear
from onebit.models import MLP
from onebit.modules.packed_module import PackedModule
from support.heads import Two, TwoHeads, both, right, two_targets
from support.samples import BAD_DATA, HOLED, VALUES, X, Y, loader, net, tensors, train, trained
from support.tensors import same

NAMES = np.array(["ant", "bee", "cow"])[Y]


class Keywords(nn.Module):
    """Takes a dict of inputs, and answers in a dict or an object that holds logits."""

    def __init__(self, answer: Any = dict) -> None:
        super().__init__()
        self.net, self.answer = net(), answer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        logits = self.net(input_ids * attention_mask)
        return logits if self.answer is None else self.answer(logits=logits)


@dataclass
class Answer:
    logits: Tensor


def dicts(name: str) -> list[dict[str, Any]]:
    return [{"input_ids": x, "attention_mask": np.ones(1, np.float32), name: y} for x, y in zip(X, Y, strict=True)]


def collated(samples: list[Any]) -> UserDict[str, Tensor]:
    """As the tokenizers of transformers give batches."""
    return UserDict(default_collate(samples))


@pytest.mark.parametrize(("name", "answer"), [("labels", dict), ("label", None), ("target", Answer), ("y", dict)])
def test_a_loader_of_dicts_trains_as_one_of_pairs(name: str, answer: Any) -> None:
    def of(data: Any) -> DataLoader[Any]:
        return loader(data, collate_fn=collated if name == "labels" else None)

    model, data = Keywords(answer), of(dicts(name))
    rows = train(data, model=model, validation=data, class_weights="balanced", ema=0.1).rows
    pairs = net()
    expected = train(loader(), model=pairs, validation=loader(), class_weights="balanced", ema=0.1).rows
    assert same(model.net.state_dict(), pairs.state_dict())
    for ours, theirs in zip(rows, expected, strict=True):
        assert (ours.train_error, ours.validation_loss) == (theirs.train_error, theirs.validation_loss)
    score = onebit.evaluate(model, data)
    assert score == onebit.evaluate(pairs, loader())
    assert score.correct == onebit.evaluate(pairs, (X, Y)).correct
    mean = onebit.evaluate(model, data, weights="latent", train=data)
    assert mean == onebit.evaluate(pairs, loader(), weights="latent", train=loader())


def test_a_dict_loader_is_compared_with_the_packed_net() -> None:
    model = Keywords(None).eval()
    example = {"input_ids": torch.from_numpy(X), "attention_mask": torch.ones(len(X), 1)}
    packed = onebit.pack(model, example, data=DataLoader(dicts("labels"), 10))  # type: ignore[arg-type]
    assert packed.certificate.count == len(X)
    assert packed.certificate.correct == onebit.evaluate(net().eval(), (X, Y)).correct


def test_samples_in_a_list_are_those_of_arrays() -> None:
    expected = trained((X, Y), batch_size=20)
    pairs: list[Any] = list(zip(X, Y, strict=True))
    assert same(expected, trained(pairs, batch_size=20))
    doubles = [(torch.from_numpy(x).tolist(), int(y)) for x, y in pairs]
    assert same(expected, trained(doubles, batch_size=20))
    assert onebit.evaluate(net().eval(), pairs[:2]) == onebit.evaluate(net().eval(), (X[:2], Y[:2]))
    model = Keywords()
    train(dicts("labels"), model=model, batch_size=20)
    assert same(expected, model.net.state_dict())
    whole = {"input_ids": X, "attention_mask": np.ones((len(X), 1), np.float32), "label": Y}
    model = Keywords()
    train(whole, model=model, batch_size=20)
    assert same(expected, model.net.state_dict())


def test_more_than_two_parts_are_refused_in_a_line() -> None:
    for data in ((X, Y, Y), [*zip(X, Y, Y, strict=True)], DataLoader([*zip(X, Y, Y, strict=True)], 20)):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="3 parts"):
            train(data)
        with pytest.raises(UsageError, match="3 parts"):
            onebit.evaluate(net().eval(), data)


# ---------------------------------------------------------------------------------------------------- names of classes
class Column:
    """What a column of pandas is to numpy."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape = self.values.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values.astype(dtype or self.values.dtype)


@pytest.mark.parametrize("form", [list, np.asarray, partial(np.asarray, dtype=object), Column, tuple])
def test_names_of_classes_are_numbered_in_order(form: Any) -> None:
    model = net()
    rows = train((X, form(NAMES)), model=model, validation=(X[:40], NAMES[:40].tolist()), batch_size=20).rows
    numbers = net()
    expected = train((X, Y), model=numbers, validation=(X[:40], Y[:40]), batch_size=20).rows
    assert same(model.state_dict(), numbers.state_dict())
    assert rows[-1].validation_loss == expected[-1].validation_loss
    part = NAMES != "bee"  # the others keep their numbers
    assert onebit.evaluate(model, (X[part], form(NAMES[part]))) == onebit.evaluate(numbers, (X[part], Y[part]))
    assert onebit.pack(model, torch.from_numpy(X)).classes == ("ant", "bee", "cow")


def test_names_that_mean_no_class_are_refused() -> None:
    other = np.where(NAMES == "bee", "fly", NAMES)
    model = net()
    train((X, NAMES), model=model, epochs=1)
    with pytest.raises(DataError, match="fly"):
        train((X, NAMES), validation=(X, other))
    with pytest.raises(DataError, match="fly"):
        onebit.evaluate(model, (X, other))
    with pytest.raises(DataError, match="class"):
        train((X, Y), validation=(X, NAMES))
    with pytest.raises(UsageError, match="2 classes"):
        onebit.evaluate(net().eval(), (X[NAMES != "bee"], NAMES[NAMES != "bee"]))  # which two?
    with pytest.raises(UsageError, match="regression"):
        train((X, NAMES), loss="mse")
    with pytest.raises(UsageError, match="regression"):
        onebit.evaluate(net(1).eval(), (X, NAMES), loss="mse")


def test_names_are_said_and_reach_a_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    features = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    trainer = onebit.Trainer(features, epochs=1, device="cpu", batch_size=20)
    trainer.fit((X, NAMES), verbose=True)
    assert "ant, bee, cow" in capsys.readouterr().err
    assert trainer.evaluate((X, NAMES)).count == len(X)


# -------------------------------------------------------------------------------------------------------------- labels
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_hinge"])
def test_labels_that_are_no_class_are_refused_with_the_range(loss: str) -> None:
    for labels in (Y + 1, np.where(Y == 1, -100, Y)):
        tensors = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(labels))
        for data in ((X, labels), loader(tensors)):
            with pytest.raises(UsageError, match="0 to 2"):
                train(data, loss=loss)
            with pytest.raises(UsageError, match="0 to 2"):
                onebit.evaluate(net().eval(), data, loss="cross_entropy")
        with pytest.raises(UsageError, match="0 to 2"):
            train((X, Y), validation=(X, labels), loss=loss)


class Tagger(nn.Module):
    """Logits (N, 3, 4) of the four parts of a sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = onebit.BinaryLinear(3, 3, weight_quantizer="xnor")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(len(x), 4, 3)).transpose(1, 2)


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
def test_padded_tokens_count_nowhere(loss: str) -> None:
    tags = VALUES.repeat(2, axis=1)[:, :4].argsort(axis=1).clip(0, 2)
    padded = np.where(np.arange(4) < 1 + np.arange(len(X))[:, None] % 4, tags, -100)
    known = padded >= 0
    runs = []
    for ignored in (None, -100):
        model = Tagger()
        options: dict[str, Any] = {"model": model, "loss": loss, "ignore_index": ignored, "batch_size": 20}
        rows = train((X, padded), validation=(X, padded), accumulate=2, **options).rows
        runs.append([*model.parameters(), torch.tensor([rows[-1].train_error, rows[-1].validation_error])])
    assert all(map(torch.equal, *runs))
    score = onebit.evaluate(model, (X, padded), loss=loss, metric="accuracy")
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(X)).transpose(1, 2)[torch.from_numpy(known)]
    right = int((logits.argmax(1).numpy() == padded[known]).sum())
    assert (score.correct, score.count) == (right, int(known.sum()))
    assert score.metrics["accuracy"] == right / known.sum()
    if loss == "cross_entropy":
        cost = nn.functional.cross_entropy(logits, torch.from_numpy(padded[known]))
        assert score.loss == pytest.approx(float(cost), rel=1e-6)


# --------------------------------------------------------------------------------------------------------------- scores
def test_every_form_gives_the_same_score() -> None:
    model = net().eval()
    expected = onebit.evaluate(model, (X, Y))
    x = torch.from_numpy(X)
    for data in ((x, torch.from_numpy(Y)), TensorDataset(x, torch.from_numpy(Y)), loader(shuffle=True)):
        found = onebit.evaluate(model, data)
        assert dataclasses.replace(found, loss=expected.loss, entropy=expected.entropy, gaps=expected.gaps) == expected
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    logits = model(x)
    # in eval mode the layer's own weights are the binary ones
    assert expected.correct == int((logits.argmax(1).numpy() == Y).sum())


def test_images_of_every_form_and_packed_nets() -> None:
    train, test = make_toy(64, 40)
    data = Dataset("toy", train, train[:0], test, tuple("abcd"))
    model = MLP((64, 16, 4), input_quantizer="ste_sign")
    packed = PackedModule(onebit.pack(model))
    images, labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)
    for kind in (model, packed):
        expected = onebit.evaluate(kind, test)
        for form in (data, (test.images, test.labels), DataLoader(TensorDataset(images, labels), 1000)):
            assert onebit.evaluate(kind, form) == expected
    assert onebit.evaluate(packed, test).correct == onebit.evaluate(model, test).correct


def test_statistics_come_from_training_data_of_any_form() -> None:
    model = net().eval()
    x = torch.from_numpy(X)
    expected = onebit.evaluate(model, (X, Y), weights="latent", train=(X, Y))
    assert onebit.evaluate(model, (X, Y), weights="latent", train=(x, torch.from_numpy(Y))) == expected
    assert expected.bn == "reestimate"
    trained = onebit.evaluate(model, (X, Y), weights="latent", bn="trained")
    assert trained.loss != expected.loss
    assert onebit.evaluate(model, (X, Y), weights="latent", train=loader()).loss not in (trained.loss, np.nan)


def test_several_outputs_have_the_loss_and_the_metrics_of_the_user() -> None:
    torch.manual_seed(1)
    model = TwoHeads(named=True).eval()
    score = onebit.evaluate(model, DataLoader(two_targets(named=True), 7), loss=both, metric=right)  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = model(torch.from_numpy(X))
    targets = {"kind": torch.from_numpy(Y), "size": torch.from_numpy(VALUES[:, :1])}
    assert score.loss == pytest.approx(float(both(outputs, targets)), rel=1e-5)
    assert score.metrics == {"right": pytest.approx(float(right(outputs, targets)))}
    assert (score.correct, score.count) == (None, len(X))


@pytest.mark.parametrize("form", [tuple, dict])
def test_several_inputs_are_the_arguments_of_the_model_as_in_pack(form: type) -> None:
    torch.manual_seed(2)
    model, parts = Two(), {"other": VALUES, "one": X}
    inputs = parts if form is dict else (parts["one"], parts["other"])
    optimizer = torch.optim.Adam(model.parameters())
    onebit.fit(model, (inputs, Y), optimizer, epochs=1, batch_size=10)
    with torch.no_grad():
        right = (model(*map(torch.from_numpy, (parts["one"], parts["other"]))).argmax(1).numpy() == Y).sum()
    assert onebit.evaluate(model, (inputs, Y)).correct == right
    assert onebit.evaluate(onebit.PackedModule(onebit.pack(model, inputs)), (inputs, Y)).correct == right


class Unrepeatable(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(len(X)).tolist())

    def __len__(self) -> int:
        return len(X)


ENSEMBLE = {"weights": "ensemble:2", "bn": "trained"}
BAD = BAD_DATA | {
    "infinite": (lambda: loader(tensors(np.nan_to_num(HOLED, nan=np.inf))), {}),
    "probabilities above 1": (lambda: (X, 1 + abs(VALUES)), {"loss": "bce"}),
    "a metric of another task": (lambda: (X, Y), {"metric": "r2"}),
    "an ensemble in a random order": (lambda: loader(sampler=Unrepeatable(), shuffle=False), ENSEMBLE),
}


@pytest.mark.parametrize("case", BAD)
def test_data_with_a_wrong_score_are_refused(case: str) -> None:
    make, options = BAD[case]
    with pytest.raises((UsageError, DataError)):
        onebit.evaluate(stochastic() if "weights" in options else net().eval(), make(), **options)


def stochastic() -> nn.Module:
    return nn.Sequential(BinaryLinear(12, 3, weight_quantizer="stochastic"))


def test_an_ensemble_reads_a_weighted_loader_in_the_same_order() -> None:
    data = loader(sampler=torch.utils.data.WeightedRandomSampler([1.0] * 83, 50), shuffle=False)
    assert onebit.evaluate(stochastic(), data, weights="ensemble:2").count == 50
