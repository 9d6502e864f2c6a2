"""Images that grow during training: sizes, pixels, resuming, and wrong settings."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

import onebit
from onebit.data import Augmentation, Dataset, Split, TrainingSamples
from onebit.data.resizing import resize_images
from onebit.errors import UsageError
from onebit.models.resnet import cifar_resnet
from onebit.optim import clip_latents_, latent_groups
from onebit.train.feeds import images_of_epoch, side_at
from support.toy_training import flat, whole_and_resumed

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


def train(model: nn.Module, *, epochs: float = 4, augmentation: Augmentation = GROWING, **options: Any) -> Any:
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
    history = train(model, epochs=6)
    assert [size for size, _ in groupby(sizes)] == [8, 12, 16]
    assert [sizes.count(size) // sizes.count(12) for size in (8, 12, 16)] == [2, 1, 3]
    assert [row.small for row in history.rows] == [True] * 3 + [False] * 3
    assert not model.training


def test_a_teacher_sees_full_images() -> None:
    teacher, sizes = net(), set[tuple[int, ...]]()
    teacher.register_forward_pre_hook(lambda module, args: sizes.add(tuple(args[0].shape[1:])))
    train(net(), teacher=teacher, epochs=2)
    assert sizes == {(3, 16, 16)}


def test_a_resumed_training_has_the_sizes_of_a_whole_one(tmp_path: Path) -> None:
    def trained(folder: Path, **options: Any) -> dict[str, Any]:
        train(model := net(), folder=folder, **options)
        return flat(model.state_dict())

    whole, resumed = whole_and_resumed(trained, tmp_path)
    assert resumed == whole


def test_masks_do_not_grow() -> None:
    masks = Split(np.zeros((4, 3, 16, 16), np.uint8), np.zeros((4, 16, 16), np.uint8))
    with pytest.raises(UsageError, match="first_size"):
        TrainingSamples(masks, Augmentation(first_size=8), channels_last=False)
