"""Feeds: epochs of a number of steps, endless loaders, resuming amid a pass, batches on a device, images that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, groupby, islice, pairwise
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
from onebit.data import Augmentation, Dataset, Split, TrainingSamples
from onebit.data.resizing import resize_images
from onebit.errors import DataError, UsageError
from onebit.models.resnet import cifar_resnet
from onebit.optim import clip_latents_, latent_groups
from onebit.train.feeds import DeviceBatches, images_of_epoch, side_at
from support.samples import Augmented, Stream, X, Y, loader, train, trained
from support.tensors import same
from support.toy_training import flat, whole_and_resumed

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


# ----------------------------------------------------------------------------------------------------- images that grow
GROWING = Augmentation(first_size=8, growing=0.5, flip=True)


def data(side: int = 16, count: int = 12) -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count + 6, 3, side, side)).astype(np.uint8)
    labels = np.arange(count + 6) % 3
    splits = [Split(images[part], labels[part]) for part in (slice(count), slice(count, None))]
    return Dataset("noise", splits[0], splits[1], splits[1], ("a", "b", "c"), note="made-up data")


def net() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, input_shape=(3, 16, 16), classes=3, width=0.25, weight_quantizer="sign")


def grown(model: nn.Module, *, epochs: float = 4, augmentation: Augmentation = GROWING, **options: Any) -> Any:
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(model, lr=0.01)))
    return onebit.fit(
        model, data(), optimizer, epochs=epochs, batch_size=4, augmentation=augmentation, precision="fp32", **options
    )


def test_sides_grow_in_equal_parts() -> None:
    sides = [side_at(Augmentation(first_size=16), side=32, epoch=epoch, epochs=40) for epoch in range(1, 41)]
    assert sides == [16] * 7 + [20] * 7 + [24] * 7 + [28] * 7 + [32] * 12


@given(first=st.integers(1, 200), more=st.integers(1, 200), growing=st.floats(0.01, 1), epochs=st.floats(0.2, 50))
def test_sides_never_shrink_and_end_at_full_size(first: int, more: int, growing: float, epochs: float) -> None:
    side, augmentation = first + more, Augmentation(first_size=first, growing=growing)
    sides = [side_at(augmentation, side=side, epoch=e, epochs=epochs) for e in range(1, int(np.ceil(epochs)) + 1)]
    assert sides[-1] == side
    assert sides[0] == (first if epochs > 1 else side)
    assert all(small <= large for small, large in pairwise(sides))
    assert all((size - first) % 4 == 0 or size == side for size in sides)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shrunk_pixels_are_those_of_pillow(layout: torch.memory_format) -> None:
    images = data(side=32).train.images
    first = {"augmentation": Augmentation(first_size=20), "epoch": 1, "epochs": 9}
    small = images_of_epoch(torch.from_numpy(images).contiguous(memory_format=layout), **first)
    assert small.dtype == torch.uint8
    assert small.is_contiguous(memory_format=layout)
    assert np.abs(small.numpy().astype(int) - resize_images(images, 20)).max() <= 1
    real = images_of_epoch(torch.from_numpy(images).float(), **first)
    assert (real.round() - small).abs().max() <= 1


def test_the_longer_side_keeps_its_proportion() -> None:
    images, small = torch.zeros(1, 3, 30, 40), Augmentation(first_size=15)
    assert images_of_epoch(images, small, epoch=1, epochs=9).shape == (1, 3, 15, 20)
    assert images_of_epoch(images, small, epoch=9, epochs=9) is images


def test_every_epoch_has_its_size() -> None:
    model, sizes = net(), list[int]()
    model.register_forward_pre_hook(
        lambda module, args: sizes.append(args[0].shape[2]) if module.training and torch.is_grad_enabled() else None
    )
    history = grown(model, epochs=6)
    assert [size for size, _ in groupby(sizes)] == [8, 12, 16]
    assert [sizes.count(size) // sizes.count(12) for size in (8, 12, 16)] == [2, 1, 3]
    assert [row.small for row in history.rows] == [True] * 3 + [False] * 3
    assert not model.training


def test_a_teacher_sees_full_images() -> None:
    teacher, sizes = net(), set[tuple[int, ...]]()
    teacher.register_forward_pre_hook(lambda module, args: sizes.add(tuple(args[0].shape[1:])))
    grown(net(), teacher=teacher, epochs=2)
    assert sizes == {(3, 16, 16)}


def test_a_resumed_training_has_the_sizes_of_a_whole_one(tmp_path: Path) -> None:
    def trained(folder: Path, **options: Any) -> dict[str, Any]:
        grown(model := net(), folder=folder, **options)
        return flat(model.state_dict())

    whole, resumed = whole_and_resumed(trained, tmp_path)
    assert resumed == whole


def test_masks_do_not_grow() -> None:
    masks = Split(np.zeros((4, 3, 16, 16), np.uint8), np.zeros((4, 16, 16), np.uint8))
    with pytest.raises(UsageError, match="first_size"):
        TrainingSamples(masks, Augmentation(first_size=8), channels_last=False)
