"""Augmented images per second on one core: whole batches against loops over single images.

All variants crop and flip the same images in the same way and must return the same batches, which is checked first.
They then take turns in one process. The loops do what a data loader with per-image transforms does, without converting
pixels to floats: once with Pillow, once with numpy alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import onebit
from benchmarks.shared import add_rounds, add_seconds, machine

CROP_AND_FLIP = onebit.data.Augmentation(crop_padding=4, flip=True)
SHAPE = (3, 32, 32)
LOOP = "one by one, Pillow"

MakeBatch = Callable[[np.ndarray, np.random.Generator], onebit.data.Images]


def one_by_one(
    images: onebit.data.Images, augmentation: onebit.data.Augmentation, change: Callable[..., onebit.data.Images]
) -> MakeBatch:
    """The crops and flips of `TrainingImages`, one image at a time.

    Args:
        images: in the layout that `change` expects.
        change: (image, padding, top, left, mirrored) -> (C, H, W).
    """

    def batch(indices: np.ndarray, rng: np.random.Generator) -> onebit.data.Images:
        draws = onebit.data.augment.draw(augmentation, len(indices), size=SHAPE[1:], rng=rng)
        drawn = zip(indices, draws.top.tolist(), draws.left.tolist(), draws.mirrored.tolist(), strict=True)
        return np.stack([change(images[index], augmentation.crop_padding, *place) for index, *place in drawn])

    return batch


def change_with_pillow(
    image: onebit.data.Images, padding: int, top: int, left: int, mirrored: bool
) -> onebit.data.Images:
    """`image` is (H, W, 3)."""
    height, width, _ = image.shape
    picture = ImageOps.expand(Image.fromarray(image), padding).crop((left, top, left + width, top + height))
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture).transpose(2, 0, 1)


def change_with_numpy(
    image: onebit.data.Images, padding: int, top: int, left: int, mirrored: bool
) -> onebit.data.Images:
    """`image` is (C, H, W)."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = image
    window = padded[:, top : top + height, left : left + width]
    return window[:, :, ::-1] if mirrored else window


def augmentation_speed(batch: MakeBatch, count: int, *, batch_size: int, seconds: float, seed: int = 0) -> float:
    """Images per second of `batch`, over random batches of `count` images, for at least `seconds`."""
    rng = np.random.default_rng(seed)
    order, place, made = rng.permutation(count), 0, 0
    started = time.perf_counter()
    while True:
        made += len(batch(order[place : place + batch_size], rng))
        place = (place + batch_size) % (count - batch_size + 1)
        spent = time.perf_counter() - started
        if spent >= seconds:
            return made / spent


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    add_rounds(parser, 5)
    parser.add_argument("--batch", type=int, default=125, help="batch size (125)")
    parser.add_argument("--count", type=int, default=50_000, help="number of images to draw from (50000)")
    add_seconds(parser, 0.5)


def measure(
    *,
    rounds: int = 5,
    batch: int = 125,
    seconds: float = 0.5,
    count: int = 50_000,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check that all variants return the same batches, then time them in turn.

    Args:
        count: number of random images, of CIFAR's shape, to draw from.
        on_round: called with (rounds done, rounds).

    Returns:
        machine, settings, and rows of variant, images per second (median and best round), and the ratio to the loop
        with Pillow (median over rounds).

    Raises:
        UsageError: numbers that are not positive, or a batch larger than the data.
        OnebitError: two variants return different batches.
    """
    if min(rounds, batch) < 1 or not 0 < seconds < math.inf or count < batch:
        raise onebit.errors.UsageError(f"rounds, batch and seconds must be positive, and batch at most {count}")
    images = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    cut = onebit.data.Augmentation(crop_padding=4, flip=True, cutout=16)
    variants: dict[str, MakeBatch] = {
        LOOP: one_by_one(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), CROP_AND_FLIP, change_with_pillow),
        "one by one, numpy": one_by_one(images, CROP_AND_FLIP, change_with_numpy),
        "whole batches": onebit.data.TrainingImages(images, CROP_AND_FLIP, channels_last=False).batch,
        "whole batches, channels_last": onebit.data.TrainingImages(images, CROP_AND_FLIP, channels_last=True).batch,
        "whole batches, channels_last, cutout 16": onebit.data.TrainingImages(images, cut, channels_last=True).batch,
    }
    some = np.arange(batch)
    expected = variants[LOOP](some, np.random.default_rng(1))
    for name, make in variants.items():
        if "cutout" not in name and not np.array_equal(make(some, np.random.default_rng(1)), expected):
            raise onebit.errors.OnebitError(f"{name}: returns other batches than {LOOP}")
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for done in range(rounds):
        for name, make in variants.items():
            speeds[name].append(augmentation_speed(make, count, batch_size=batch, seconds=seconds, seed=done))
        if on_round is not None:
            on_round(done + 1, rounds)
    return {
        "benchmark": "augmentation",
        "machine": machine(1),
        "settings": {"shape": list(SHAPE), "count": count, "batch": batch, "rounds": rounds, "seconds": seconds},
        "rows": [
            {
                "variant": name,
                "images_per_second": statistics.median(found),
                "fastest": max(found),
                "ratio": statistics.median(a / b for a, b in zip(found, speeds[LOOP], strict=True)),
            }
            for name, found in speeds.items()
        ],
    }


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    how = result["settings"]
    lines = [
        f"crop 4 + flip of {'×'.join(map(str, how['shape']))} images, batch {how['batch']}, {how['rounds']} rounds; "
        f"{result['machine']['cpu']}, one core",
        f"{'':<42}{'images/s':>11}{'fastest':>11}{'× loop':>9}",
    ]
    lines += [
        f"{row['variant']:<42}{row['images_per_second']:>11,.0f}{row['fastest']:>11,.0f}{row['ratio']:>9.1f}"
        for row in result["rows"]
    ]
    return "\n".join(lines)
