"""A small generated data set for tests, examples and first steps."""

from __future__ import annotations

import numpy as np

from onebit.data.splits import DatasetEntry, LoadedFiles, Split

_SIDE = 8


def make_toy(
    train_count: int = 2_048, test_count: int = 512, *, classes: int = 4, seed: int = 0, noise: int = 120
) -> tuple[Split, Split]:
    """Noisy copies of one random black-and-white 8×8 pattern per class.

    Pixel = clip(64 or 192 by the pattern + uniform integer in [−noise, noise], 0, 255). With the default noise about a
    quarter of the pixels are on the wrong side of 128, yet the nearest pattern is the right one: the classes are
    linearly separable, and a net that learns classifies (nearly) all images correctly.

    Args:
        train_count: number of training images; the classes alternate.
        test_count: number of test images.
        classes: number of classes.
        seed: the same seed gives the same data on every machine (integers only).
        noise: in gray levels, 0..255.

    Returns:
        train and test, images (N, 1, 8, 8).
    """
    rng = np.random.default_rng(seed)
    patterns = 64 + 128 * rng.integers(0, 2, (classes, 1, _SIDE, _SIDE))

    def draw(count: int) -> Split:
        labels = np.arange(count, dtype=np.int64) % classes
        noisy = patterns[labels] + rng.integers(-noise, noise + 1, (count, 1, _SIDE, _SIDE))
        return Split(noisy.clip(0, 255).astype(np.uint8), labels)

    return draw(train_count), draw(test_count)


TOY = DatasetEntry(
    name="toy",
    title="noisy 8×8 patterns, generated",
    read=lambda: LoadedFiles(*make_toy(), "", ()),
    classes=("a", "b", "c", "d"),
    input_shape=(1, _SIDE, _SIDE),
    counts=(2_048, 512),
    validation=256,
    licence="made by onebit; no rights claimed",
    note="generated data",
    stored=False,
)
