"""`onebit.pack` with data compares with the training pipeline; without, the net says that nothing was compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import onebit
from onebit.cli.train_command import read_command, train_request
from onebit.data import Dataset
from onebit.errors import FoldError, UsageError
from onebit.layers import InputCoding, Normalize
from onebit.runs.model import build_model
from onebit.runs.opening import Run
from onebit.verification.run_packing import fold_run, on_raw_images

MEAN, STD, COUNT = 0.5, 0.25, 240
IMAGES = torch.randint(0, 256, (COUNT, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
RIGHT = Normalize(MEAN, STD)
WRONG = {
    "mean not times 255": InputCoding("standardize", mean=[MEAN], std=[STD], scale=1),
    "no mean": Normalize(0.0, 1.0),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Takes preprocessed images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5), nn.BatchNorm1d(5)]
    model = onebit.binarize_(nn.Sequential(*layers), weight_quantizer="sign").model
    model.train()(preprocessed())
    return model.eval()


def preprocessed() -> Tensor:
    """As torchvision's ToTensor and Normalize make it."""
    return (IMAGES.float() / 255 - MEAN) / STD


@pytest.fixture(scope="module")
def labels(model: nn.Module) -> Tensor:
    """Those of the model, but for each fifth."""
    found = model(preprocessed()).argmax(1)
    found[::5] = (found[::5] + 1) % 5
    return found


@pytest.fixture(scope="module")
def trained(labels: Tensor) -> DataLoader:
    return DataLoader(TensorDataset(preprocessed(), labels), batch_size=100, shuffle=True)


def test_the_right_preprocessing_is_certified(
    model: nn.Module, labels: Tensor, trained: DataLoader, tmp_path: Path
) -> None:
    raw = IMAGES.numpy(), labels.numpy()
    packed = onebit.pack(model, preprocessed()[:8], preprocess=RIGHT, data=raw, trained=trained, name="cnn")
    certificate = packed.certificate
    assert (certificate.dataset, certificate.split, certificate.count) == ("own data (arrays)", "", COUNT)
    assert (certificate.label_mismatches, certificate.trained_correct) == (0, COUNT * 4 // 5)
    assert (onebit.run(packed, raw[0]).argmax(1) == raw[1]).sum() == certificate.correct
    onebit.save(packed, tmp_path / "net.1bit")
    assert onebit.load(tmp_path / "net.1bit").statement == packed.statement
    assert onebit.verify(model, packed, raw, trained=trained).ok


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_preprocessing_is_refused(wrong: str, model: nn.Module, labels: Tensor, trained: DataLoader) -> None:
    """The packed net agrees with the model behind the same preprocessing; only the pipeline shows the loss."""
    raw, coding, example = (IMAGES, labels), WRONG[wrong], preprocessed()[:8]
    packed = onebit.pack(model, example, preprocess=coding)
    assert onebit.verify(model, packed, raw, preprocess=coding).ok
    found = onebit.verify(model, packed, raw, trained=trained)
    assert not found.ok
    assert (found.correct or 0) < (found.trained_correct or 0) - 20
    with pytest.raises(FoldError, match="preprocessing"):
        onebit.pack(model, example, preprocess=coding, data=raw, trained=trained)


def test_without_data_the_net_is_compared_on_the_example(model: nn.Module) -> None:
    certificate = onebit.pack(model, preprocessed()[:8], preprocess=RIGHT).certificate
    assert (certificate.dataset, certificate.count, certificate.ok) == ("the example", 8, True)
    packed = onebit.pack(model, input_shape=(1, 4, 4), preprocess=RIGHT)
    assert packed.certificate is None
    assert packed.statement.startswith("not certified")


def test_without_preprocess_the_net_takes_the_inputs_of_the_model(model: nn.Module, trained: DataLoader) -> None:
    packed = onebit.pack(model, preprocessed()[:8], data=trained)
    certificate = packed.certificate
    assert packed.input.dtype == "float32"
    assert (certificate.dataset, certificate.count, certificate.label_mismatches) == ("own data (DataLoader)", COUNT, 0)
    assert (certificate.correct, certificate.trained_correct) == (COUNT * 4 // 5, None)


def test_pixels_that_the_model_converts() -> None:
    class Converting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float() / 255)

    torch.manual_seed(0)
    model = onebit.binarize_(Converting()).model
    model(IMAGES)
    raw = IMAGES.numpy(), (torch.arange(COUNT) % 3).numpy()
    packed = onebit.pack(model, IMAGES[:8], data=Dataset.from_arrays(raw, raw, name="mine"))
    assert packed.input.dtype == "uint8"
    assert f"{COUNT} mine test images" in packed.statement


def test_wrong_arguments_are_refused(model: nn.Module, trained: DataLoader) -> None:
    x = preprocessed()[:8]
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("data", {"preprocess": RIGHT, "trained": trained}),
        ("float32", {"preprocess": RIGHT, "data": trained}),
        ("uint8", {"data": IMAGES}),
    ]
    for noun, options in wrong:
        with pytest.raises(UsageError, match=noun):
            onebit.pack(model, x, **options)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(FoldError):
            onebit.pack(nn.Sequential(onebit.BinaryLinear(6, 3)).to(dtype), torch.rand(2, 6))


def test_an_integer_net_is_certified_with_both_accuracies() -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), onebit.BinaryLinear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), onebit.BinaryLinear(24, 3)]
    model, images = nn.Sequential(InputCoding(), *layers).eval(), IMAGES[:200]
    with torch.no_grad():
        labels = model(images).argmax(1)
    small = onebit.integer_net(onebit.pack(model, images), images.numpy(), activations=2)
    with pytest.raises(UsageError, match="activations"):
        onebit.certify(model, small, (images, labels))
    certificate = onebit.certify(model, small, (images, labels), activations=2, calibration=200).certificate
    assert certificate.model_correct == 200
    assert certificate.correct == 200 - certificate.label_mismatches < 200


# ------------------------------------------------------------------------------------------------------ permuted pixels
def made_run(model: str, method: str, shape: tuple[int, int, int]) -> Run:
    """A net with its first weights, as if it had been trained on permuted pixels."""
    flags = ["--model", model, "--dataset", "mnist", "--method", method, "--permutation", "3"]
    widths = ["--model.widths", "[144,6,4]"] if model == "mlp" else []
    recipe = train_request(read_command([*flags, *widths]))
    net = build_model(recipe.model, input_shape=shape, classes=4)
    return Run(recipe, net.eval(), shape, 4, Path("final.safetensors"), {})


@pytest.mark.parametrize("method", ["bnn", "bayesbinn", "real"])
def test_the_net_on_raw_images_computes_what_it_did_on_permuted_ones(method: str) -> None:
    torch.manual_seed(0)
    run = made_run("mlp", method, (3, 6, 8))
    images = torch.randint(0, 256, (5, 3, 6, 8), dtype=torch.uint8)
    order = np.random.default_rng(3).permutation(48)
    permuted = images.flatten(2)[:, :, order].view_as(images)
    before = [parameter.clone() for parameter in run.model.parameters()]
    raw = on_raw_images(run)
    with torch.no_grad():
        torch.testing.assert_close(raw.model(images), run.model(permuted))
        assert not torch.allclose(raw.model(images), run.model(images))
    assert raw.recipe.permutation is None
    assert all(map(torch.equal, before, run.model.parameters()))
    assert on_raw_images(raw) is raw


def test_nets_that_keep_their_permutation_are_not_packed() -> None:
    with pytest.raises(UsageError, match="permuted"):  # a convolution cannot take over the order of pixels
        on_raw_images(made_run("lenet", "binaryconnect", (1, 28, 28)))
    with pytest.raises(UsageError, match="on_raw_images"):
        fold_run(made_run("mlp", "binaryconnect", (3, 6, 8)), None)
