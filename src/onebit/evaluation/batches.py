"""Images in batches that fit a net, and the logits that the net computes for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.progress import progress, shows_progress
from onebit.common.torch_private import COMPILED
from onebit.data import Images, Split, StreamedImages, fitted, read_batches
from onebit.errors import UsageError
from onebit.evaluation.model_inputs import kept_training, model_device, whole_pixels
from onebit.evaluation.nested import joined, mapped, size_of

OnImages = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def batch_bounds(count: int, batch_size: int, *, least: int = 2) -> list[tuple[int, int]]:
    """(start, stop) of every batch; all samples are used, and a last batch below `least` joins the batch before it.

    BatchNorm cannot train on a single sample.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] < least:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=False))  # an empty split has no batches


def fitting_batch(shape: Sequence[int]) -> int:
    """Batch size for inference on images (C, H, W): 1,000 of 3×32×32, 20 of 3×224×224."""
    return min(1000, max(1, 1000 * 3 * 32 * 32 // math.prod(shape)))


def in_tiles(model: nn.Module, split: Split) -> Split:
    """Cut images with masks into tiles that the model takes, see `onebit.data.fitted`; other splits are unchanged."""
    taken, made = (getattr(model, name, None) for name in ("input_shape", "output_shape"))
    return split if split.labels.ndim == 1 or taken is None or made is None else fitted(split, taken, made)


def image_batches(
    model: nn.Module,
    images: Images | StreamedImages | Tensor,
    batch_size: int | None = None,
    *,
    mixed: bool = False,
) -> Iterator[Tensor]:
    """uint8 batches on the device of the model, of `fitting_batch` images by default.

    Args:
        mixed: draw each batch from all images, with a fixed seed, instead of taking consecutive ones.
    """
    device, size = model_device(model), fitting_batch(images.shape[1:]) if batch_size is None else batch_size
    for (batch,) in array_batches([images], batch_indices(len(images), size, mixed=mixed)):
        yield batch.to(device)


def batch_indices(count: int, batch_size: int, *, mixed: bool = False) -> list[Any]:
    """What to index arrays with for each batch; `mixed` as in `image_batches`."""
    bounds = batch_bounds(count, batch_size)
    if not mixed:
        return [slice(start, stop) for start, stop in bounds]
    order = np.random.default_rng(0).permutation(count)
    # sorted: a file is read from front to back
    return [np.sort(order[start:stop]) for start, stop in bounds]


def array_batches(arrays: Sequence[Any], indices: Sequence[Any]) -> Iterator[tuple[Tensor, ...]]:
    """Contiguous tensors of each batch of arrays, tensors or streamed images; streamed images are read ahead.

    They are copies: a model may change its inputs in place, as in `x /= 255`.
    """
    read = [
        map(array.__getitem__, indices) if isinstance(array, Tensor) else read_batches(array, indices)
        for array in arrays
    ]
    for index, *parts in zip(indices, *read, strict=True):
        views = isinstance(index, slice)  # what other indices choose is a copy
        yield tuple(in_memory_order(_copied(part) if views else part) for part in parts)


def _copied(array: Any) -> Any:
    return array.clone() if isinstance(array, Tensor) else np.array(array)


def in_memory_order(array: Any) -> Tensor:
    """A tensor of an array or a tensor with the strides of its shape, without a copy where they are equivalent.

    torch mistakes an axis of one channel with an odd stride for channels_last, after which `view` fails.
    """
    if isinstance(array, Tensor):
        return array.contiguous().view(-1).view(array.shape)
    return torch.from_numpy(np.ascontiguousarray(array).reshape(-1).reshape(array.shape))


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: Images | StreamedImages | Tensor,
    *,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
) -> Tensor:
    """Logits (N, classes) in float32 in eval mode.

    Args:
        images: uint8 (N, C, H, W).
        batch_size: `fitting_batch` by default.
        on_images: called with (images done, images).
    """
    batches = ((batch, None) for batch in image_batches(model, images, batch_size))
    return outputs_of(model, batches, count=len(images), on_images=on_images)[0]


@torch.no_grad()
def outputs_of(
    model: nn.Module, batches: Iterable[tuple[Any, Any]], *, count: int | None, on_images: OnImages | None = None
) -> tuple[Any, Any]:
    """Outputs in float32 of a model in eval mode, and the targets of the same samples; None without targets.

    Args:
        batches: (inputs, targets); count: number of samples, None if it is unknown.
        on_images: called with (samples done, count).
    """
    device, parts, known = model_device(model), [], []
    done = 0
    with kept_training(model):
        model.eval()
        for inputs, targets in batches:
            # a hook would compile the model again; the first batch shows what all are
            with nullcontext() if done or hasattr(model, COMPILED) else whole_pixels(model):
                outputs = model(mapped(lambda tensor: tensor.to(device), inputs))
            parts.append(mapped(Tensor.float, outputs))
            known.append(mapped(lambda tensor: tensor.to(device), targets))
            done += size_of(inputs)
            if on_images is not None:
                on_images(done, done if count is None else count)
    if not parts:
        raise UsageError("there are no samples")
    return joined(parts), None if known[0] is None else joined(known)


@contextmanager
def images_done(verbose: bool | None, on_images: OnImages | None) -> Iterator[OnImages | None]:
    """The callback for (images done, images): it updates a progress bar, if one is shown, and calls `on_images`."""
    if not shows_progress(verbose, on_images):
        yield on_images
        return
    with progress("evaluating", "images") as bar:

        def done(count: int, total: int) -> None:
            bar.update(count, total)
            if on_images is not None:
                on_images(count, total)

        yield done
