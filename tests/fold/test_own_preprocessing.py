"""A net trained with its own preprocessing: the packed net is compared with that, not with its own input coding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.data import Dataset, load_dataset
from onebit.errors import FoldError, UsageError
from onebit.fold import pack
from onebit.layers import InputCoding, binarize_
from onebit.verification.agreement import certify, verify

MEAN, STD = [0.1307], [0.3081]  # for pixels from 0 to 1, as in every MNIST tutorial
SHAPE = (1, 28, 28)


def preprocessed(images: Tensor) -> Tensor:
    return (images / 255 - MEAN[0]) / STD[0]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("mnist-sample")


@pytest.fixture(scope="module")
def net(data: Dataset) -> nn.Module:
    """Trained for one epoch in a plain loop."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    binarize_(net, weight_quantizer="ste_sign", input_quantizer=None)
    optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(net, lr=0.01)))
    images, labels = preprocessed(torch.from_numpy(data.train.images)), torch.from_numpy(data.train.labels)
    for batch in torch.randperm(len(images)).split(100):
        loss = nn.functional.cross_entropy(net(images[batch]) / 8, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def verified(net: nn.Module, coding: InputCoding, data: Dataset, **options: Any) -> onebit.packed.Certificate:
    model = nn.Sequential(coding, net)
    return verify(model, pack(model, input_shape=SHAPE), data.test.images, **options)


def test_the_coding_of_the_training_agrees(net: nn.Module, data: Dataset) -> None:
    coding = InputCoding("standardize", mean=MEAN, std=STD, scale=255)
    seen: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def trained(images: Tensor) -> Tensor:
        seen.append((images.dtype, tuple(images.shape[1:])))
        return net(preprocessed(images))

    found = verified(net, coding, data, labels=data.test.labels, trained=trained)
    assert found.ok
    assert found.correct is not None
    assert found.correct > 1600  # of 2,000
    assert found.trained_mismatches is not None
    assert found.trained_mismatches <= 2  # ties decided by rounding
    assert set(seen) == {(torch.uint8, SHAPE)}
    with torch.no_grad():
        logits = net(preprocessed(torch.from_numpy(data.test.images))).numpy()
    again = verified(net, coding, data, labels=data.test.labels, trained=logits)
    assert (again.trained_correct, again.trained_mismatches) == (found.trained_correct, found.trained_mismatches)


@pytest.mark.parametrize(
    "coding",
    [
        lambda: InputCoding("standardize", mean=[0.0], std=[255.0]),
        lambda: InputCoding("standardize", mean=MEAN, std=STD, scale=1),
    ],
)
def test_another_coding_disagrees(net: nn.Module, data: Dataset, coding: Callable[[], InputCoding]) -> None:
    def trained(images: Tensor) -> Tensor:
        return net(preprocessed(images))

    alone = verified(net, coding(), data)
    assert alone.ok  # both nets get the same wrong input
    found = verified(net, coding(), data, labels=data.test.labels, trained=trained)
    assert not found.ok
    assert found.label_mismatches == 0
    assert found.trained_correct is not None
    assert found.correct is not None
    assert "preprocessing" in found.faults[-1]
    model = nn.Sequential(coding(), net)
    with pytest.raises(FoldError, match="preprocessing"):
        certify(model, pack(model, input_shape=SHAPE), data.test, dataset=data.name, trained=trained)


def test_wrong_arguments_are_refused(data: Dataset) -> None:
    model = onebit.create_model("mlp", widths=(784, 16, 10), weight_quantizer="sign").eval()
    packed, images = pack(model), data.test.images[:50]
    with pytest.raises(UsageError, match="49"):
        verify(model, packed, images, labels=data.test.labels[:49])
    with pytest.raises(UsageError, match="49"):
        verify(model, packed, images, trained=np.zeros((49, 10)))
    with pytest.raises(UsageError, match="logits"):
        verify(model, packed, images, trained=lambda images: torch.zeros(len(images), 9))
