"""Comparisons on data of every form, and with the pipeline of the training."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from onebit.data import Dataset, Split
from onebit.errors import DataError, FoldError, OnebitError, UsageError
from onebit.fold import pack
from onebit.layers import BinaryLinear, InputCoding
from onebit.verification.agreement import certify, verify
from support.covering import covering
from support.fold_nets import SHAPE, images_of, make_mlp

COUNT = 90
RAW = images_of(COUNT)
LABELS = np.random.default_rng(1).integers(0, 5, COUNT)
X, Y = torch.from_numpy(RAW), torch.from_numpy(LABELS)


def preprocessed(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.4) / 0.3


class Pairs(torch.utils.data.Dataset):
    """Preprocesses each image when it is indexed, as torchvision does."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return preprocessed(X[index]), int(Y[index])


class Streamed(IterableDataset):
    def __iter__(self) -> Any:
        yield from zip(X, Y, strict=True)


class Floats(IterableDataset):
    def __iter__(self) -> Any:
        yield from zip(preprocessed(X), Y, strict=True)


def loader(inputs: Tensor = X, labels: Tensor = Y, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(inputs, labels), **{"batch_size": 16, **options})


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Takes preprocessed images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), BinaryLinear(12, 31), nn.BatchNorm1d(31), nn.ReLU(), BinaryLinear(31, 5))
    net.train()(preprocessed(X))
    return net.eval()


def packed_behind(coding: nn.Module, net: nn.Module) -> Any:
    return pack(nn.Sequential(coding, net), input_shape=SHAPE)


RIGHT = InputCoding("standardize", mean=[0.4], std=[0.3], scale=255)


@pytest.mark.parametrize(
    "data",
    [
        (RAW, LABELS),
        [X, LABELS],
        (RAW[:, 0], LABELS),
        TensorDataset(X, Y),
        loader(batch_size=7, shuffle=True, drop_last=True),
        DataLoader(Streamed(), batch_size=16),
        Split(RAW, LABELS),
        Dataset.from_arrays((RAW, LABELS), (RAW, LABELS)),
    ],
)
def test_every_form_gives_the_same_counts(data: Any) -> None:
    model = make_mlp(nasty=None)
    expected = verify(model, pack(model), RAW, labels=LABELS)
    found = verify(model, pack(model), data)
    assert replace(found, dataset="", split="") == replace(expected, dataset="", split="")
    assert found.count == COUNT
    assert found.correct == (model(X).argmax(1) == Y).sum()


@pytest.mark.parametrize("data", [RAW, DataLoader(X, batch_size=7), loader()])  # type: ignore[arg-type]
def test_labels_can_be_given_or_left_out(data: Any) -> None:
    model = make_mlp(nasty=None)
    given = verify(model, pack(model), data, labels=Y)
    assert given.correct == (model(X).argmax(1) == Y).sum()
    for labels in (LABELS.tolist(), LABELS.astype(">i2"), LABELS[::-1].copy()[::-1]):
        assert given == verify(model, pack(model), data, labels=labels)
    without = verify(model, pack(model), X)
    assert (without.ok, without.correct) == (True, None)


def pipelines() -> dict[str, Any]:
    inputs = preprocessed(X)
    return {
        "a loader": loader(inputs),
        "a shuffling loader": loader(inputs, shuffle=True),
        "a loader with other batches": loader(inputs, batch_size=37),
        "a loader of single samples": loader(inputs, batch_size=1),
        "a data set": Pairs(),
        "a pair": (inputs, Y),
        "a pair of arrays": (inputs.numpy(), LABELS),
        "inputs alone": inputs,
        "a loader of inputs alone": DataLoader(inputs, batch_size=8),  # type: ignore[arg-type]
    }


SOURCES: dict[str, Any] = {"pair": (RAW, LABELS), "loader": loader(), "inputs": X}


@pytest.mark.parametrize(("name", "source"), covering(product(pipelines(), SOURCES)))
def test_the_pipeline_of_the_training_is_compared(name: str, source: str, net: nn.Module) -> None:
    trained, packed, data = pipelines()[name], packed_behind(RIGHT, net), SOURCES[source]
    found = verify(net, packed, data, labels=LABELS if isinstance(data, Tensor) else None, trained=trained)
    assert found.ok, str(found)
    assert found.trained_mismatches == found.label_mismatches <= 1
    right = int((net(preprocessed(X)).argmax(1) == Y).sum())
    assert found.trained_correct == right
    both = verify(net, packed, data, labels=LABELS, trained=trained, preprocess=RIGHT)
    assert (both.label_mismatches, both.trained_mismatches) == (0, found.trained_mismatches)


@pytest.mark.parametrize("coding", [InputCoding(), InputCoding("standardize", mean=[0.4], std=[0.3], scale=1)])
def test_another_preprocessing_fails_with_both_accuracies(coding: InputCoding, net: nn.Module) -> None:
    packed, trained = packed_behind(coding, net), loader(preprocessed(X))
    for options in ({}, {"preprocess": coding}):
        found = verify(net, packed, (RAW, LABELS), trained=trained, **options)
        assert not found.ok
        assert f"{found.correct} correct" in str(found)
        assert f"{found.trained_correct} correct, {found.trained_mismatches} differ" in str(found)
        assert "preprocessing" in found.faults[-1]
    with pytest.raises(FoldError, match="preprocessing"):
        certify(nn.Sequential(coding, net), packed, (RAW, LABELS), trained=lambda x: net(preprocessed(x)))


def test_labels_of_the_pipeline_and_progress_of_a_stream(net: nn.Module) -> None:
    done: list[tuple[int, int]] = []
    data = DataLoader(Streamed(), batch_size=40, collate_fn=lambda rows: torch.stack([x for x, _ in rows]))
    options: dict[str, Any] = {"trained": loader(preprocessed(X)), "on_images": lambda *n: done.append(n)}
    found = verify(net, packed_behind(RIGHT, net), data, **options)
    assert abs((found.correct or 0) - int((net(preprocessed(X)).argmax(1) == Y).sum())) <= 1
    assert done == [(40, 40), (80, 80), (90, 90)]


def test_a_model_that_drops_samples_is_refused() -> None:
    class First(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:64])

    model, x = First(BinaryLinear(9, 5)).eval(), torch.randn(100, 9)
    with pytest.raises(UsageError, match="outputs"):
        verify(model, pack(model, x), x)


def test_one_changed_label_is_rounding_and_two_are_not(net: nn.Module) -> None:
    """0.5 % of the labels, and at least one, may change."""
    packed = packed_behind(RIGHT, net)
    logits = net(preprocessed(X)).detach()
    for wrong, ok in ((1, True), (2, False)):
        given = logits.clone()
        given[:wrong] = -given[:wrong]
        found = verify(net, packed, X, trained=given, preprocess=RIGHT)
        assert (found.trained_mismatches, found.ok) == (wrong, ok)


MISTAKES: dict[str, tuple[type[OnebitError], Any, dict[str, Any]]] = {
    "preprocessed inputs for a net that takes pixels": (UsageError, loader(preprocessed(X)), {}),
    "float64 arrays for a net that takes pixels": (UsageError, (RAW / 255, LABELS), {}),
    "no images": (UsageError, RAW[:0], {}),
    "fewer samples": (DataError, RAW, {"trained": loader(preprocessed(X)[1:], Y[1:])}),
    "more samples": (DataError, RAW[:80], {"trained": Floats()}),
    "fewer samples of unknown number": (DataError, np.concatenate([RAW, RAW]), {"trained": Floats()}),
    "labels of another number": (DataError, loader(), {"labels": LABELS[:9]}),
    "labels of another number, after a stream": (DataError, Streamed(), {"labels": [*LABELS, 1]}),
    "labels outside of the classes": (UsageError, (RAW, LABELS + 1), {}),
    "targets of another shape": (UsageError, (RAW, LABELS / 2), {}),
    "an empty loader": (UsageError, loader(X[:0], Y[:0]), {}),
    "latent weights": (UsageError, RAW, {"weights": "latent"}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused(name: str, net: nn.Module) -> None:
    kind, data, options = MISTAKES[name]
    with pytest.raises(kind):
        verify(net, packed_behind(RIGHT, net), data, preprocess=RIGHT, **options)


@pytest.mark.parametrize(("data", "name"), [(X, "own data (arrays)"), (loader(), "own data (DataLoader)")])
def test_a_certificate_names_the_form_of_data(data: Any, name: str, net: nn.Module) -> None:
    model = nn.Sequential(RIGHT, net)
    certified = certify(model, packed_behind(RIGHT, net), data)
    certificate = certified.certificate
    assert (certificate.dataset, certificate.split, certificate.count) == (name, "", COUNT)
    assert certificate.label_mismatches == 0
    assert (certificate.correct is None) == isinstance(data, Tensor)
    assert certificate.trained_mismatches is None
    assert f"certified on 90 images of {name}: " in certified.statement
    assert f"{certificate.max_logit_difference:.3g}" in certified.statement
    trained = certify(model, certified, data, trained=lambda x: net(preprocessed(x)))
    assert trained.statement.endswith(f"{trained.certificate.trained_mismatches} differ")
