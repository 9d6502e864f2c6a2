"""BatchNorm statistics that an evaluation re-estimates."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import onebit
from onebit.data import Split, StreamedImages, make_toy
from onebit.errors import UsageError
from onebit.evaluation.modes import BN_IMAGES, evaluate, reestimate_batch_norm_, stated_mode
from onebit.evaluation.sources import as_samples
from onebit.layers import BinaryLinear
from onebit.quantizers import sign
from support.mode_nets import Bayesian, net, splits
from support.tensors import same, state

__all__ = ["splits"]


@pytest.mark.parametrize(
    ("quantizer", "mode", "trained"),
    [
        ("sign", "binary", True),
        ("sign", "latent", False),
        ("stochastic", "binary", True),  # as long as nothing trained it
        ("stochastic", "ensemble:3", False),
        (Bayesian, "mean", False),
        (None, "real", True),
    ],
)
def test_modes_other_than_the_trained_one_re_estimate_statistics(
    splits: tuple[Split, Split], quantizer: str | None, mode: str, trained: bool
) -> None:
    model = net(quantizer)
    score = evaluate(model, splits[1], weights="binary" if quantizer is None else mode, train=splits[0])
    assert score.bn == ("trained" if trained else "reestimate")


@pytest.mark.parametrize("count", [66, 96])
def test_re_estimated_statistics_are_the_mean_over_batches_by_their_sizes(
    count: int, splits: tuple[Split, Split]
) -> None:
    model = net()
    images = torch.from_numpy(splits[0].images[:count])
    mixed = images[np.random.default_rng(0).permutation(count)]
    by_hand = []
    for batch in (mixed[:32], mixed[32:64], mixed[64:]):
        first = (2.0 * batch.flatten(1).double() - 255) @ sign(model.linear1.weight).double().t()
        normal = (first - first.mean(0)) / torch.sqrt(first.var(0, unbiased=False) + model.norm1.eps)
        normal = normal * model.norm1.weight.double() + model.norm1.bias.double()
        second = normal.relu() @ sign(model.linear2.weight).double().t()
        by_hand.append([first.mean(0), first.var(0), second.mean(0), second.var(0)])
    share = torch.tensor([32, 32, count - 64]).view(-1, 1) / count
    mean = [(share * torch.stack(values)).sum(0) for values in zip(*by_hand, strict=True)]
    reestimate_batch_norm_(model, images, batch_size=32)
    found = [model.norm1.running_mean, model.norm1.running_var, model.norm2.running_mean, model.norm2.running_var]
    for ours, expected in zip(found, mean, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("count", "used"), [(1000, 1000), (1001, 1000), (1002, 1002)])
def test_a_small_last_batch_of_a_loader_counts_by_its_size(count: int, used: int) -> None:
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(count, 1)).astype(np.float32))
    inputs[1000:] = 5.0
    model = nn.Sequential(nn.BatchNorm1d(1))
    reestimate_batch_norm_(model, as_samples(DataLoader(TensorDataset(inputs), batch_size=500)))
    found = model[0].running_mean
    torch.testing.assert_close(found, inputs[:used].mean(0))


class Twice(nn.Module):
    """One BatchNorm for all samples and, once more, for two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).mean() + self.norm(x[:2] + 10)


def test_a_batch_norm_that_is_called_twice_counts_both_calls() -> None:
    model = Twice()
    reestimate_batch_norm_(model, torch.arange(8.0)[:, None], batch_size=8)
    assert float(model.norm.running_mean) == pytest.approx((sum(range(8)) + 10 + 11) / 10)


@pytest.mark.parametrize("kind", ["array", "streamed", "tensor"])
def test_re_estimation_sees_the_variance_between_classes_of_sorted_images(kind: str, tmp_path: Path) -> None:
    # as in a folder: each of the four batches would be of a single class, whose images are almost alike
    brightness = np.repeat([40, 90, 160, 220], 50)[:, None, None, None]
    pixels = (brightness + np.random.default_rng(0).integers(-5, 6, (200, 3, 8, 8))).astype(np.uint8)
    files = [str(tmp_path / f"{i}.png") for i in range(200)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
    streamed, tensor = StreamedImages(files, (8, 8), workers=0), torch.from_numpy(pixels)
    images = {"array": pixels, "streamed": streamed, "tensor": tensor}[kind]
    model, again = net(inputs=192), net(inputs=192)
    with torch.no_grad():
        sums = (2.0 * torch.from_numpy(pixels).flatten(1).double() - 255) @ sign(model.linear1.weight).double().t()
    reestimate_batch_norm_(model, images, batch_size=50)
    ratio = model.norm1.running_var.double() / sums.var(0)
    assert float(ratio.min()) > 0.8, "the variance within a class is a hundredth of it"
    reestimate_batch_norm_(again, images, batch_size=50)
    assert same(state(model), state(again))


def test_re_estimation_does_not_drop_units() -> None:
    images = torch.from_numpy(make_toy(64, 4)[0].images)
    results = []
    for dropout in (0.0, 0.5):
        model = net(dropout=dropout)
        reestimate_batch_norm_(model, images)
        results.append(model.norm2.running_mean)
    assert torch.equal(results[0], results[1])


def test_the_images_for_batch_norm_are_spread_over_the_split() -> None:
    count = 2 * BN_IMAGES
    images = np.zeros((count, 1, 1, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    seen: list[Tensor] = []
    model = nn.Sequential(nn.BatchNorm1d(2))
    model.forward = lambda x: (seen.append(x.flatten(1).int()), model[0](x.flatten(1).float()))  # type: ignore[method-assign]
    reestimate_batch_norm_(model, Split(images, np.zeros(count, np.int64)))
    pixels = torch.cat(seen)
    index = (pixels[:, 0] + 256 * pixels[:, 1]).sort()[0]
    assert len(index) == BN_IMAGES
    assert (index[0], index[-1]) == (0, count - 1)
    assert set(index.diff().tolist()) <= {2, 3}


def test_training_inputs_alone_give_the_statistics_of_a_pair(
    splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onebit.evaluation.modes.BN_IMAGES", 64)
    train, test = splits
    alone, pair = (
        evaluate(net(), test, train=part, bn="reestimate") for part in (train.images, (train.images, train.labels))
    )
    assert len(train) > 64
    assert alone == pair


def test_statistics_that_training_does_not_change_are_not_re_estimated(splits: tuple[Split, Split]) -> None:
    class KeepsNorm(nn.Sequential):
        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            self[2].eval()
            return self

    model = KeepsNorm(nn.Flatten(), BinaryLinear(splits[0].images[0].size, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[2].running_mean.fill_(0.5)
    seen: list[list[float]] = []
    for norm in (model[2], model[3]):
        norm.register_forward_hook(lambda module, inputs, output: seen.append(module.running_mean.tolist()))
    data = [(torch.from_numpy(split.images).float(), torch.from_numpy(split.labels)) for split in splits]
    evaluate(model, data[1], weights="latent", train=data[0])
    assert seen[-2] == [0.5] * 4
    assert 0.0 not in seen[-1]


@pytest.mark.parametrize("quantizer", ["stochastic", "prox"])
def test_statistics_of_other_weights_than_ship_are_re_estimated(splits: tuple[Split, Split], quantizer: str) -> None:
    """As after a loop of one's own; `fit` ends with a re-estimation."""
    train, test = splits
    model, images = net(quantizer), torch.from_numpy(train.images[:64])
    assert stated_mode(model, "binary") == ("binary", "trained")
    model.train()(images)
    model.eval()
    assert stated_mode(model, "binary") == ("binary", "reestimate")
    assert stated_mode(net("sign").train(), "binary") == ("binary", "trained")
    with pytest.raises(UsageError, match="BatchNorm"):
        evaluate(model, test)
    with pytest.warns(UserWarning, match="BatchNorm"):
        onebit.pack(model)
    score = evaluate(model, test, train=train)
    assert score.bn == "reestimate"
    reestimate_batch_norm_(model, train)
    assert evaluate(model, test) == dataclasses.replace(score, bn="trained")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onebit.pack(model)


def test_a_layer_that_is_not_called_keeps_its_statistics() -> None:
    used, unused = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model = nn.Sequential(used)
    model.add_module("unused", unused)
    model.forward = lambda x: used(x)
    unused.running_mean.fill_(4.0)
    reestimate_batch_norm_(model, torch.randn(20, 3) + 2)
    assert unused.running_mean.tolist() == [4.0] * 3
    assert unused.momentum == used.momentum == 0.1
    assert float((used.running_mean - 2).abs().max()) < 1
    before = used.running_mean.clone()
    reestimate_batch_norm_(model, torch.randn(20, 3), norms=[unused])
    assert torch.equal(used.running_mean, before)
