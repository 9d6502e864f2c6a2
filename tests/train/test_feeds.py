"""Feeds: epochs of a number of steps, endless loaders, resuming amid a pass, and batches made on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import onebit
from onebit.data import Augmentation, Split, TrainingSamples
from onebit.errors import DataError, UsageError
from onebit.train.feeds import DeviceBatches
from support.samples import Augmented, Stream, X, Y, loader, train, trained
from support.tensors import same
from support.toy_training import whole_and_resumed

COUNT = 80


class Endless(IterableDataset):
    """The first COUNT samples, again and again; `read` counts the samples that were taken."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for number in count():
            self.read += 1
            yield torch.from_numpy(X[number % COUNT]), int(Y[number % COUNT])


def plain() -> nn.Module:
    """A net without BatchNorm, whose statistics would be estimated on more samples of an endless loader."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), onebit.BinaryLinear(16, 3, weight_quantizer="xnor"))


def weights(data: Any, folder: Path | None = None, **options: Any) -> dict[str, Tensor]:
    model = plain()
    train(data, folder, model=model, **options)
    return model.state_dict()


def test_steps_on_an_endless_loader_are_those_of_a_finite_one_and_of_a_loop() -> None:
    source, finite = Endless(), TensorDataset(torch.from_numpy(X[:COUNT]), torch.from_numpy(Y[:COUNT]))
    found = weights(DataLoader(source, 20), epochs=None, steps=10)
    assert source.read == 11 * 20, "the example and 10 batches"
    assert same(found, weights(DataLoader(finite, 20), epochs=None, steps=10))
    assert same(found, weights(DataLoader(finite, 20), epochs=2.5))
    assert same(found, weights(DataLoader(Endless(), 20), epochs=2.5, steps_per_epoch=4))
    model = plain().train()
    optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.02)))
    for x, y in islice(DataLoader(Endless(), 20), 10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("data", [loader, lambda: (X, Y)])
def test_epochs_of_a_number_of_steps_go_on_where_the_last_one_ended(data: Callable[[], Any]) -> None:
    options = {"batch_size": 20} if data is not loader else {}
    rows = train(data(), epochs=None, steps=10, steps_per_epoch=3, validation=(X, Y), accumulate=2, **options).rows
    assert [(row.epoch, row.epochs, row.step) for row in rows] == [(1, 4, 3), (2, 4, 6), (3, 4, 9), (4, 4, 10)]
    assert all(row.validation_error is not None for row in rows)
    expected = trained(data(), epochs=2, **options)  # passes of 5 batches
    assert same(expected, trained(data(), epochs=None, steps=10, steps_per_epoch=3, **options))
    assert same(expected, trained(data(), epochs=None, steps=10, steps_per_epoch=7, **options))


FORMS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "arrays": (lambda: (X, Y), {"batch_size": 20}),
    "random transforms": (lambda: loader(Augmented()), {}),
    "endless": (lambda: DataLoader(Endless(), 20), {}),
    "passes of unknown length": (lambda: DataLoader(Stream(), 20), {}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:resuming at the start")
def test_a_run_resumes_amid_a_pass_bit_for_bit(form: str, tmp_path: Path) -> None:
    make, options = FORMS[form]

    def run(folder: Path, **more: Any) -> dict[str, Tensor]:
        return weights(make(), folder, epochs=None, steps=10, steps_per_epoch=3, **options, **more)

    whole, resumed = whole_and_resumed(run, tmp_path)
    assert same(whole, resumed)


def test_persistent_workers_serve_a_training_and_its_statistics() -> None:
    def run(**options: Any) -> dict[str, Tensor]:
        return trained(loader(num_workers=1, persistent_workers=True), ema=0.5, **options)  # ema: estimates statistics

    assert same(run(epochs=2), run(epochs=None, steps=10, steps_per_epoch=4))


def test_a_loader_without_length_needs_steps_before_it_is_read() -> None:
    source = Endless()
    for options in ({"epochs": 2}, {"epochs": 2, "steps": 3}, {"epochs": None}, {"epochs": None, "steps": 0}):
        with pytest.raises(UsageError, match="steps"):
            train(DataLoader(source, 20), **options)
    assert source.read == 0
    with pytest.raises(UsageError, match="class_weights"):
        train(DataLoader(source, 20), epochs=None, steps=3, class_weights="balanced")
    with pytest.raises(DataError, match="0 batches"):
        train(DataLoader(Stream(20, 0), 20), epochs=None, steps=3)


def test_the_generators_of_a_loader_are_put_back_amid_a_pass() -> None:
    data = loader()
    train(data, epochs=None, steps=3, steps_per_epoch=2)
    assert data.generator is data.sampler.generator is None  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------------- on the device
CPU = torch.device("cpu")


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)),
    augmentation=st.builds(
        Augmentation,
        crop_padding=st.integers(0, 3),
        flip=st.booleans(),
        padding_mode=st.sampled_from(["zero", "reflect"]),
        cutout=st.integers(0, 5),
        repeats=st.integers(1, 2),
    ),
    seed=st.integers(0, 2**32),
    channels_last=st.booleans(),
    part=st.builds(slice, st.integers(0, 2), st.integers(3, 9) | st.none()),
)
def test_held_images_make_the_same_batches(
    shape: tuple[int, int, int, int], augmentation: Augmentation, seed: int, channels_last: bool, part: slice
) -> None:
    augmentation = replace(augmentation, cutout=min(augmentation.cutout, min(shape[2:]) - 1))
    choice = np.random.default_rng(seed + 1)
    split = Split(choice.integers(1, 256, shape).astype(np.uint8), np.arange(shape[0]))
    samples = TrainingSamples(split, augmentation, channels_last=channels_last)
    chosen = [(choice.integers(0, shape[0], size), part) for size in (4, 1, 7)]
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    with patch("onebit.train.feeds._fits", return_value=True):
        made = list(DeviceBatches(samples, CPU).batches(chosen, rng))
    expected = list(samples.batches(chosen, same))
    assert len(made) == len(expected) == 3
    for (images, labels), (pixels, numbers) in zip(made, expected, strict=True):
        np.testing.assert_array_equal(images, pixels)
        np.testing.assert_array_equal(labels, numbers)
        assert images.dtype == torch.uint8
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=layout)
    assert rng.random() == same.random()


def test_images_not_kept_on_the_device_are_copied() -> None:
    """The device has no memory; it takes the place of a GPU."""
    split = Split(np.zeros((6, 3, 8, 8), np.uint8), np.arange(6))
    samples = TrainingSamples(split, Augmentation(min_area=0.5), channels_last=True)
    chosen = [(np.arange(4), slice(0, 4)), (np.arange(6), slice(1, 3))]
    made = list(DeviceBatches(samples, torch.device("meta")).batches(chosen, np.random.default_rng(0)))
    assert [tuple(images.shape) for images, _ in made] == [(4, 3, 8, 8), (2, 3, 8, 8)]
    assert all(images.is_meta and labels.is_meta for images, labels in made)
