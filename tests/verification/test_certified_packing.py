"""`onebit.pack` with data compares with the training pipeline; without, the net says that nothing was compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import onebit
from onebit.data import Dataset, load_dataset
from onebit.errors import FoldError, UsageError
from onebit.layers import InputCoding, Normalize

COUNT = 600
MEAN, STD = 0.1307, 0.3081  # of MNIST, for pixels from 0 to 1
RIGHT = Normalize(MEAN, STD)
WRONG = {
    "mean not times 255": InputCoding("standardize", mean=[MEAN], std=[STD], scale=1),
    "no mean": Normalize(0.0, 1.0),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    data = load_dataset("mnist-sample")
    return replace(data, train=data.train[:2500], test=data.test[:COUNT])


def loader(images: np.ndarray, labels: np.ndarray, **options: Any) -> DataLoader:
    """As torchvision's ToTensor and Normalize make it."""
    inputs = (torch.from_numpy(images).float() / 255 - MEAN) / STD
    return DataLoader(TensorDataset(inputs, torch.from_numpy(labels)), batch_size=100, **options)


@pytest.fixture(scope="module")
def model(data: Dataset) -> nn.Module:
    """A CNN of its own, trained for some steps in a plain loop on preprocessed images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 10), nn.BatchNorm1d(10),
    )  # fmt: skip
    onebit.binarize_(model, weight_quantizer="sign")
    optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.01)))
    torch.manual_seed(0)
    for images, labels in loader(data.train.images, data.train.labels, shuffle=True):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def trained(data: Dataset) -> DataLoader:
    return loader(data.test.images, data.test.labels, shuffle=True)


def example(trained: DataLoader) -> Tensor:
    return next(iter(trained))[0]


def test_the_right_preprocessing_is_certified(
    model: nn.Module, data: Dataset, trained: DataLoader, tmp_path: Any
) -> None:
    raw = data.test.images, data.test.labels
    packed = onebit.pack(model, example(trained), preprocess=RIGHT, data=raw, trained=trained, name="cnn")
    certificate = packed.certificate
    assert certificate is not None
    assert (certificate.dataset, certificate.split, certificate.count) == ("own data (arrays)", "", COUNT)
    assert certificate.label_mismatches == 0
    correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in trained)
    assert certificate.trained_correct == correct > 450
    assert certificate.correct is not None
    assert abs(certificate.correct - correct) <= (certificate.trained_mismatches or 0) <= 2
    assert (onebit.run(packed, raw[0]).argmax(1) == raw[1]).sum() == certificate.correct
    onebit.save(packed, tmp_path / "net.1bit")
    assert onebit.load(tmp_path / "net.1bit").statement == packed.statement
    found = onebit.verify(model, packed, raw, trained=trained)
    assert found.ok
    assert found.trained_correct == correct


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_preprocessing_is_refused(wrong: str, model: nn.Module, data: Dataset, trained: DataLoader) -> None:
    """The packed net agrees with the model behind the same preprocessing; only the pipeline shows the loss."""
    raw, coding = (data.test.images, data.test.labels), WRONG[wrong]
    packed = onebit.pack(model, example(trained), preprocess=coding)
    alone = onebit.verify(model, packed, raw, preprocess=coding)
    assert alone.ok
    found = onebit.verify(model, packed, raw, trained=trained)
    assert not found.ok
    assert found.correct is not None
    assert found.trained_correct is not None
    assert found.correct < found.trained_correct - 40
    with pytest.raises(FoldError, match="preprocessing"):
        onebit.pack(model, example(trained), preprocess=coding, data=raw, trained=trained)


def test_without_data_the_net_says_that_nothing_was_compared(model: nn.Module, trained: DataLoader) -> None:
    packed = onebit.pack(model, example(trained), preprocess=RIGHT)
    assert packed.certificate is None
    assert packed.statement.startswith("not certified")


def test_the_net_takes_what_the_model_is_fed(model: nn.Module, trained: DataLoader) -> None:
    """Without a preprocessing to pack, the loader of the training is the data."""
    packed = onebit.pack(model, example(trained), data=trained)
    certificate = packed.certificate
    assert certificate is not None
    assert packed.input.dtype == "float32"
    assert (certificate.dataset, certificate.count) == ("own data (DataLoader)", COUNT)
    assert certificate.label_mismatches == 0
    assert certificate.correct == sum(int((model(x).argmax(1) == y).sum()) for x, y in trained)
    assert certificate.trained_correct is None


def test_pixels_that_the_model_converts_itself(data: Dataset) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float() / 255)

    torch.manual_seed(0)
    model = onebit.binarize_(Own()).model
    model(torch.from_numpy(data.train.images[:500]))
    packed = onebit.pack(model, torch.from_numpy(data.test.images[:8]), data=data)
    assert packed.certificate is not None
    assert packed.input.dtype == "uint8"
    assert "600 mnist-sample test images" in packed.statement


def test_a_net_that_does_not_agree_is_refused(
    model: nn.Module, data: Dataset, trained: DataLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onebit.fold import pack as fold

    other = onebit.binarize_(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))).model
    spoilt = fold(other, example(trained))
    monkeypatch.setattr("onebit.verification.agreement.fold", lambda *a, **k: spoilt)
    with pytest.raises(UsageError, match="operations"):
        onebit.pack(model, example(trained), data=trained)


def test_wrong_arguments_are_refused(model: nn.Module, data: Dataset, trained: DataLoader) -> None:
    x = example(trained)
    with pytest.raises(UsageError, match="without data"):
        onebit.pack(model, x, preprocess=RIGHT, trained=trained)
    with pytest.raises(UsageError, match="float32"):
        onebit.pack(model, x, preprocess=RIGHT, data=trained)
    with pytest.raises(UsageError, match="uint8"):
        onebit.pack(model, x, data=data)


def test_models_without_float32_weights_are_refused() -> None:
    x = torch.rand(2, 6)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(FoldError):
            onebit.pack(nn.Sequential(onebit.BinaryLinear(6, 3)).to(dtype), x)


def test_an_integer_net_is_certified_with_both_accuracies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), onebit.BinaryLinear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), onebit.BinaryLinear(24, 3)
    )
    images = torch.randint(0, 256, (200, 1, 4, 4), dtype=torch.uint8)
    model = nn.Sequential(InputCoding(), model).eval()
    with torch.no_grad():
        labels = model(images).argmax(1)
    small = onebit.integer_net(onebit.pack(model, images), images.numpy(), activations=2)
    with pytest.raises(UsageError, match="activations=2"):
        onebit.certify(model, small, (images, labels))
    certificate = onebit.certify(model, small, (images, labels), activations=2, calibration=200).certificate
    assert certificate is not None
    assert certificate.model_correct == 200
    assert certificate.correct == 200 - certificate.label_mismatches < 200
