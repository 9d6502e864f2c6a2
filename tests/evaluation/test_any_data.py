"""`evaluate` on data of every form, and the errors for data that do not fit the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

import onebit
from onebit.data import Dataset, make_toy
from onebit.errors import DataError, UsageError
from onebit.layers import BinaryLinear
from onebit.models import MLP
from onebit.runtime.torch_module import PackedModule
from support.heads import Two, TwoHeads, both, right, two_targets
from support.samples import BAD_DATA, HOLED, VALUES, X, Y, loader, net, tensors


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
