"""`evaluate` on data of every form, and the errors for data that do not fit the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

import onebit
from onebit.data import Dataset, make_toy
from onebit.errors import DataError, UsageError
from onebit.layers import BinaryLinear
from onebit.models import MLP
from onebit.runtime.torch_module import PackedModule

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 20))
Y = np.arange(50) % 3
T = X[:, :3] + 0.1 * RNG.normal(size=(50, 3))


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), BinaryLinear(16, outputs)).eval()


def loader(x: Any, y: Any, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y)), 8, **options)


def test_every_form_gives_the_same_score() -> None:
    model = net()
    expected = onebit.evaluate(model, (X, Y))
    x = torch.from_numpy(X).float()
    for data in ((x, torch.from_numpy(Y)), TensorDataset(x, torch.from_numpy(Y)), loader(X, Y, shuffle=True)):
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
    model = net()
    x = torch.from_numpy(X).float()
    expected = onebit.evaluate(model, (X, Y), weights="latent", train=(X, Y))
    assert onebit.evaluate(model, (X, Y), weights="latent", train=(x, torch.from_numpy(Y))) == expected
    assert expected.bn == "reestimate"
    trained = onebit.evaluate(model, (X, Y), weights="latent", bn="trained")
    assert trained.loss != expected.loss
    assert onebit.evaluate(model, (X, Y), weights="latent", train=loader(X, Y)).loss not in (trained.loss, np.nan)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net(8)
        self.kind, self.size = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        seen = self.body(x)
        return {"kind": self.kind(seen), "size": self.size(seen)}


def both(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    size = nn.functional.mse_loss(outputs["size"], targets["size"])
    return nn.functional.cross_entropy(outputs["kind"], targets["kind"]) + size


def right(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return (outputs["kind"].argmax(1) == targets["kind"]).float().mean()


def test_several_outputs_have_the_loss_and_the_metrics_of_the_user() -> None:
    torch.manual_seed(1)
    model = TwoHeads().eval()
    samples = [
        (x, {"kind": int(y), "size": t[:1]}) for x, y, t in zip(X.astype(np.float32), Y, T.astype("f"), strict=True)
    ]
    score = onebit.evaluate(model, DataLoader(samples, 7), loss=both, metric=right)  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = model(torch.from_numpy(X).float())
    targets = {"kind": torch.from_numpy(Y), "size": torch.from_numpy(T[:, :1]).float()}
    assert score.loss == pytest.approx(float(both(outputs, targets)), rel=1e-5)
    assert score.metrics == {"right": pytest.approx(float(right(outputs, targets)))}
    assert (score.correct, score.count) == (None, 50)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = onebit.BinaryLinear(20, 3), nn.Linear(3, 3)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.one(one) - self.other(other)


@pytest.mark.parametrize("form", [tuple, dict])
def test_several_inputs_are_the_arguments_of_the_model_as_in_pack(form: type) -> None:
    torch.manual_seed(2)
    model, parts = Two(), {"other": T.astype(np.float32), "one": X.astype(np.float32)}
    inputs = parts if form is dict else (parts["one"], parts["other"])
    optimizer = torch.optim.Adam(model.parameters())
    onebit.fit(model, (inputs, Y), optimizer, epochs=1, batch_size=10)
    with torch.no_grad():
        right = (model(*map(torch.from_numpy, (parts["one"], parts["other"]))).argmax(1).numpy() == Y).sum()
    assert onebit.evaluate(model, (inputs, Y)).correct == right
    assert onebit.evaluate(onebit.PackedModule(onebit.pack(model, inputs)), (inputs, Y)).correct == right


def holed(x: Any, value: float = np.nan) -> Any:
    x = np.array(x, np.float32)
    x[37, 1] = value
    return x


class Unrepeatable(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(50).tolist())

    def __len__(self) -> int:
        return 50


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "NaN": (lambda: (holed(X), Y), {}),
    "infinite": (lambda: loader(holed(X, np.inf), Y), {}),
    "NaN targets": (lambda: (X, holed(T)), {"loss": "mse"}),
    "no targets": (lambda: X, {}),
    "a loader without targets": (lambda: DataLoader(X.astype(np.float32), 5), {}),
    "floats as classes": (lambda: (X, T), {}),
    "columns that torch would broadcast": (lambda: (X, T[:, 0]), {"loss": "mse"}),
    "probabilities above 1": (lambda: (X, 1 + abs(T)), {"loss": "bce"}),
    "a metric of another task": (lambda: (X, Y), {"metric": "r2"}),
    "an ensemble in a random order": (
        lambda: loader(X, Y, sampler=Unrepeatable()),
        {"weights": "ensemble:2", "bn": "trained"},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_data_with_a_wrong_score_are_refused(case: str) -> None:
    make, options = BAD[case]
    with pytest.raises((UsageError, DataError)):
        onebit.evaluate(stochastic() if "weights" in options else net(), make(), **options)


def stochastic() -> nn.Module:
    return nn.Sequential(BinaryLinear(20, 3, weight_quantizer="stochastic"))


def test_an_ensemble_reads_a_weighted_loader_in_the_same_order() -> None:
    sampler = torch.utils.data.WeightedRandomSampler([1.0] * 50, 50)
    assert onebit.evaluate(stochastic(), loader(X, Y, sampler=sampler), weights="ensemble:2").count == 50
