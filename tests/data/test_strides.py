"""Arrays are contiguous, so that a plain torch net can flatten its outputs with `view`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_cifar import tiny_cifar10
from tiny_folder import imagenet_folder
from tiny_masks import masked_folder
from tiny_mnist import TinyMnist
from torch import nn

from onebit.data import Dataset, hold_out, load_dataset
from onebit.data.cifar import read_cifar
from onebit.data.mnist import read_mnist
from onebit.data.permuted import permute_pixels
from onebit.data.splits import LoadedFiles


def colors(count: int) -> np.ndarray:
    """NHWC memory, as suggested by the message about (N, H, W, C)."""
    return np.random.default_rng(0).integers(0, 256, (count, 8, 6, 3), dtype=np.uint8).transpose(0, 3, 1, 2)


def array_file(folder: Path) -> Path:
    images, labels = colors(20), np.arange(20) % 2
    np.savez(folder / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return folder / "own.npz"


def own(_: Path) -> Dataset:
    pair = colors(20), np.arange(20) % 2
    return Dataset.from_arrays(pair, pair, validation=5)


def read_mnist_files(folder: Path) -> LoadedFiles:
    tiny = TinyMnist()
    return read_mnist(directory=tiny.write(folder), files=tiny.files, mirrors=())


def read_cifar_files(folder: Path, *, pickled: bool) -> LoadedFiles:
    tiny = tiny_cifar10()
    tiny.write(folder, pickled=pickled)
    return read_cifar(tiny.files, directory=folder)


SOURCES: dict[str, Callable[[Path], Dataset | LoadedFiles]] = {
    "mnist": read_mnist_files,
    "mnist-sample": lambda _: load_dataset("mnist-sample"),
    "resized": lambda _: load_dataset("mnist-sample", input_size=9),
    "permuted": lambda _: permute_pixels(load_dataset("mnist-sample"), 1),
    "cifar10": lambda folder: read_cifar_files(folder, pickled=False),
    "cifar10 pickled": lambda folder: read_cifar_files(folder, pickled=True),
    "folder": lambda folder: load_dataset("folder", directory=imagenet_folder(folder / "f"), input_size=9, workers=0),
    "segmentation": lambda folder: load_dataset("segmentation", directory=masked_folder(folder)),
    "arrays": lambda folder: load_dataset("arrays", directory=array_file(folder)),
    "own": own,
    "toy": lambda _: load_dataset("toy"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_images_have_the_strides_of_their_shape(source: str, tmp_path: Path) -> None:
    data = SOURCES[source](tmp_path)
    parts = [data.train, data.test, *hold_out(data.train, 5, seed=0)]
    for split in [*parts, *(part[::2] for part in parts)]:
        _, channels, height, width = split.images.shape
        assert split.images.strides == (channels * height * width, height * width, width, 1)
        images = torch.from_numpy(split.images[:3]).float()
        assert nn.Conv2d(channels, 2, 3)(images).view(len(images), -1).shape == (
            len(images),
            2 * (height - 2) * (width - 2),
        )
