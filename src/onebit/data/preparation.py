"""Data sets with whitened images, as BinaryConnect uses for CIFAR-10, or permuted pixels, as in permuted MNIST."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from onebit.data.resizing import Images
from onebit.data.splits import Dataset, Split
from onebit.errors import UsageError

ADDED = 0.1
"""Added to each eigenvalue (about 1 on average): directions of small variance are mostly noise."""
LEVELS_PER_UNIT = 32
"""Whitened values are stored as pixels of 8 bits, 128 + 32·value, which covers -4 to 3.97."""
_CHUNK = 2000  # images at a time

Floats = npt.NDArray[np.float32]


def whiten(data: Dataset) -> Dataset:
    """Apply global contrast normalization and ZCA whitening, fitted on the training images alone.

    Each image x (D values) is normalized to g = (x − mean(x)) / std(x). With mean m and covariance U·diag(λ)·Uᵀ of the
    training images g, the whitened image is U·diag(1/√(λ + 0.1))·Uᵀ·(g − m), times 32 plus 128, rounded. The matrix
    has D² values.
    """
    mean, matrix = fit_zca(data.train.images)
    return data.prepared_by(partial(_whitened, mean=mean, matrix=matrix), "contrast normalized and ZCA whitened")


def _whitened(split: Split, *, mean: Floats, matrix: Floats) -> Split:
    images = np.empty(split.images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        part = split.images[start : start + _CHUNK]
        flat = (normalized(part) - mean) @ matrix
        levels = np.rint(128 + LEVELS_PER_UNIT * flat).clip(0, 255)
        images[start : start + _CHUNK] = levels.astype(np.uint8).reshape(part.shape)
    return Split(images, split.labels)


def normalized(images: Images) -> Floats:
    """(N, C, H, W) uint8 -> (N, D) with mean 0 and standard deviation 1 in each row; a uniform image becomes 0."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-8)


def fit_zca(images: Images) -> tuple[Floats, Floats]:
    """Mean (D,) of the normalized images, and the symmetric whitening matrix (D, D)."""
    size = int(np.prod(images.shape[1:]))
    total, products = np.zeros(size), np.zeros((size, size))
    for start in range(0, len(images), _CHUNK):
        part = normalized(images[start : start + _CHUNK])
        total += part.sum(axis=0, dtype=np.float64)
        products += part.T @ part
    mean = total / len(images)
    eigenvalues, vectors = np.linalg.eigh(products / len(images) - np.outer(mean, mean))
    matrix = (vectors / np.sqrt(eigenvalues.clip(0) + ADDED)) @ vectors.T
    return mean.astype(np.float32), matrix.astype(np.float32)


def pixel_order(seed: int, pixels: int) -> np.ndarray:
    """The pixel of the image that each pixel of the permuted image shows, (pixels,)."""
    return np.random.default_rng(seed).permutation(pixels)


def permute_pixels(data: Dataset, seed: int) -> Dataset:
    """Permute the pixels of all images by `order = pixel_order(seed, H·W)`.

    Pixel i of a new image is pixel `order[i]` of the old one, in every channel and split. For a fully connected net
    all orders are equally difficult tasks, and learning one does not help with another (Goodfellow et al. 2013,
    arXiv:1312.6211).

    Raises:
        UsageError: the images have masks.

    Example:
        >>> permute_pixels(load_dataset("mnist"), 1).train  # doctest: +SKIP
        Split(50000 images of 1×28×28)
    """
    if data.train.labels.ndim > 1:
        raise UsageError(f"permutation: {data.name} has masks, which belong to the positions of the pixels")
    order = pixel_order(seed, data.input_shape[1] * data.input_shape[2])
    return data.prepared_by(partial(_permuted, order=order), f"pixels permuted with seed {seed}")


def _permuted(split: Split, *, order: np.ndarray) -> Split:
    images = split.images
    return Split(images.reshape(*images.shape[:2], len(order))[:, :, order].reshape(images.shape), split.labels)
