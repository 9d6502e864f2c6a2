"""Data of any form as batches of (inputs, targets): a loader, a torch data set, arrays, a split, or a `Dataset`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset, IterableDataset, TensorDataset

from onebit.data import Dataset, Split, StreamedImages, read_batches
from onebit.errors import DataError, UsageError
from onebit.evaluation.loaders import batch_samples, known_length, repeated, sampler_of, sequential
from onebit.evaluation.trees import leaves, mapped, size_of

BATCH_SIZE = 100
"""Default number of samples of a batch."""


def batch_bounds(count: int, batch_size: int, *, least: int = 2) -> list[tuple[int, int]]:
    """(start, stop) of every batch; a last batch below `least`, too small for BatchNorm, joins the one before it."""
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] < least:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=False))  # an empty split has no batches


def fitting_batch(shape: Sequence[int]) -> int:
    """Batch size for inference on images (C, H, W): 1,000 of 3×32×32, 20 of 3×224×224."""
    return min(1000, max(1, 1000 * 3 * 32 * 32 // math.prod(shape)))


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Inputs and targets in memory, or streamed images.

    Args:
        inputs: array, tensor or `StreamedImages`, (N, …); batches of float64 arrays are float32.
        targets: array or tensor (N, …), or None; in batches integers but masks are int64, float64 arrays float32.
        name: of the data, for messages.
    """

    inputs: Any
    targets: Any = None
    name: str = "data"

    def __len__(self) -> int:
        return len(self.inputs)

    count = property(__len__)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.inputs.shape[1:])

    def __getitem__(self, index: Any) -> ArraySamples:
        inputs = self.inputs
        chosen = inputs.subset(index) if isinstance(inputs, StreamedImages) else inputs[index]
        return replace(self, inputs=chosen, targets=None if self.targets is None else self.targets[index])

    def batches(self, batch_size: int | None = None, *, indices: Any = None) -> Iterator[tuple[Any, Any]]:
        """(inputs, targets) as tensors, in order, or those at each of `indices`; targets may be None."""
        ordered = indices is None
        if ordered:
            indices = [slice(*bounds) for bounds in self._bounds(batch_size)]
        targets = repeat(None) if self.targets is None else read_batches(self.targets, indices)
        for part, known in zip(read_batches(self.inputs, indices), targets, strict=False):
            inputs = _tensor(part)
            check_finite(inputs, self.name, wait=ordered)
            yield inputs, None if known is None else _as_targets(_tensor(known))

    def mixed(self, count: int, batch_size: int | None = None) -> Iterator[Any]:
        """Inputs of `count` evenly spaced samples; each batch is drawn from all of them with a fixed seed."""
        chosen = replace(self, targets=None)
        if count < len(self):
            chosen = chosen[np.linspace(0, len(self) - 1, count).astype(np.int64)]
        order = np.random.default_rng(0).permutation(len(chosen))
        # sorted: files are read from front to back
        indices = [np.sort(order[start:stop]) for start, stop in chosen._bounds(batch_size)]
        for inputs, _ in chosen.batches(indices=indices):
            yield inputs

    def _bounds(self, batch_size: int | None) -> list[tuple[int, int]]:
        return batch_bounds(len(self), fitting_batch(self.shape) if batch_size is None else batch_size)

    @cached_property
    def digest(self) -> str:
        """sha256 of bytes, shape and dtype of inputs and targets; streamed images by their number and targets."""
        parts = [part for part in (self.inputs, self.targets) if part is not None]
        return "arrays " + _digest(parts)


@dataclass(frozen=True, eq=False)
class LoaderSamples:
    """The samples of a torch DataLoader, with its own collate function and batch size.

    Args:
        loader: gives (inputs, targets), each a tensor, or a tuple or dict of tensors.
    """

    loader: DataLoader[Any]
    name: str = "the loader"

    @property
    def count(self) -> int | None:
        """Samples of a pass in order; None if unknown."""
        if batch_samples(self.loader) is None:
            return None
        dataset = self.loader.dataset
        return known_length(dataset if isinstance(dataset, IterableDataset) else sampler_of(self.loader))

    @cached_property
    def steps(self) -> int:
        """Batches of an epoch; a loader without a length is read once to count them."""
        known = known_length(self.loader)
        return sum(1 for _ in repeated(self.loader)) if known is None else known

    def batches(self, batch_size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """(inputs, targets) in order, as the collate function makes them; targets are None if there are none.

        Random transforms draw the same numbers in each pass. The loader has its own batch size.
        """
        return (parts_of(batch, self.name) for batch in repeated(sequential(self.loader)))

    def mixed(self, count: int, batch_size: int | None = None) -> Iterator[Any]:
        """Inputs of the first batches with about `count` samples, in a fixed order of the loader.

        After a larger batch, a batch of a single sample, which has no variance, is left out.
        """
        done = most = 0
        for batch in repeated(self.loader):
            inputs, _ = parts_of(batch, self.name)
            most = max(most, size_of(inputs))
            if size_of(inputs) == 1 < most:
                continue
            yield inputs
            if (done := done + size_of(inputs)) >= count:
                return

    @property
    def digest(self) -> str:
        """All bytes of a `TensorDataset`; of other data sets only the length."""
        dataset = self.loader.dataset
        if type(dataset) is TensorDataset:
            return "arrays " + _digest(dataset.tensors)
        count = f"{known_length(self.loader)} batches" if self.count is None else f"{self.count} samples"
        return f"loader of {count}"


Samples = ArraySamples | LoaderSamples


# ------------------------------------------------------------------------------------------------------------ any form
def as_samples(data: Any, *, name: str = "data", batch_size: int | None = None) -> Samples:
    """Data of any form as samples; those of a `Dataset` are its test split.

    Args:
        data: a DataLoader, a torch Dataset, a pair (inputs, targets) of arrays or tensors, a Split or a Dataset; or
            inputs alone, an array, a tensor or a dict of them, which then have no targets. Inputs may be a tuple or a
            dict in a pair.
        name: of the argument, for messages.
        batch_size: of a torch data set without a loader, which training shuffles; a loader has its own.
    """
    if isinstance(data, (ArraySamples, LoaderSamples)):
        return data
    data = data.test if isinstance(data, Dataset) else data
    if isinstance(data, Split):
        return ArraySamples(data.images, data.labels, name)
    if isinstance(data, TorchDataset):
        data = DataLoader(data, batch_size=batch_size or BATCH_SIZE, shuffle=not isinstance(data, IterableDataset))
    if isinstance(data, DataLoader):
        return LoaderSamples(data, name)
    if not isinstance(data, (tuple, list)):
        data = data, None
    if isinstance(data[0], dict) or (isinstance(data[0], tuple) and all(hasattr(x, "shape") for x in data[0])):
        data = _Rows(*data)
        return LoaderSamples(DataLoader(data, batch_size or BATCH_SIZE, shuffle=True, collate_fn=_same), name)
    inputs, targets = (_array(part) for part in data)
    if targets is not None and len(inputs) != len(targets):
        raise DataError(f"{name}: {len(inputs):,} inputs but {len(targets):,} targets")
    return ArraySamples(inputs, targets, name)


def with_tokens(data: Any, task: str | None) -> Any:
    """Data of a language model, which is to predict its own inputs: arrays of tokens (N, T) are their own targets."""
    given = data if isinstance(data, (tuple, list)) else [data]
    if task != "language" or not all(hasattr(part, "shape") for part in given):
        return data  # loaders, and several inputs, give tokens and targets themselves
    found = [torch.as_tensor(np.asarray(part), dtype=torch.int64) for part in given]
    return found * 2 if given is not data else found


def refuse_shifted(inputs: Any, targets: Any, task: str | None) -> None:
    """Refuse targets of a language model that are other tokens than its inputs."""
    if task != "language" or targets is None or not isinstance(inputs, Tensor) or inputs.is_floating_point():
        return
    if targets.shape != inputs.shape or not bool(((targets == inputs) | (targets < 0)).all()):
        raise UsageError("next_token: got targets that are not the inputs, which it shifts itself")


class _Rows(TorchDataset[Any]):
    """Samples of several inputs, each an array or a tensor, in a tuple or a dict; targets may be None."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.parts = _tensors(inputs), mapped(_as_targets, _tensors(targets))
        if len({len(part) for part in leaves(self.parts)}) > 1:
            raise DataError(
                f"got {', '.join(f'{len(part):,}' for part in leaves(self.parts))} samples, expected as many"
            )

    def __len__(self) -> int:
        return size_of(self.parts)

    def __getitems__(self, indices: list[int]) -> Any:
        return mapped(lambda part: part[indices], self.parts)


def _same(batch: Any) -> Any:
    return batch


def _tensors(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _tensors(one) for name, one in part.items()}
    if isinstance(part, tuple):
        return tuple(map(_tensors, part))
    return None if part is None else _tensor(part)


def _array(value: Any) -> Any:
    """A tensor, or an array in native byte order and contiguous, as torch takes it."""
    if value is None or isinstance(value, StreamedImages):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


# ------------------------------------------------------------------------------------------------------------- batches
def parts_of(batch: Any, name: str, *, wait: bool = True) -> tuple[Any, Any]:
    """The inputs and targets (or None) of a batch of a loader; for `wait` see `check_finite`."""
    inputs, targets = (batch, None) if isinstance(batch, Tensor) else batch if len(batch) == 2 else (*batch, None)
    check_finite(inputs, name, wait=wait)
    return inputs, targets


def check_finite(inputs: Any, name: str, *, wait: bool = True) -> None:
    """Refuse NaN and infinite inputs, which binary layers hide: the sign of NaN is +1.

    Args:
        wait: whether to check tensors on a GPU, too, which waits for it.
    """
    real = [leaf for leaf in leaves(inputs) if leaf.is_floating_point() and (wait or leaf.is_cpu)]
    # the sum takes a tenth of the time of isfinite, and is finite for all but huge numbers
    if not all(bool(leaf.sum().isfinite()) or bool(leaf.isfinite().all()) for leaf in real):
        raise DataError(f"{name}: the inputs hold NaN or infinite values")


def _tensor(part: Any) -> Tensor:
    """A copy, which a model may change in place; arrays of float64, numpy's default, become float32.

    It is contiguous: torch takes one channel with an odd stride for channels_last.
    """
    if isinstance(part, Tensor):
        return part.clone(memory_format=torch.contiguous_format)
    tensor = torch.from_numpy(np.array(part, order="C"))
    return tensor.float() if tensor.dtype in (torch.float64, torch.float16) else tensor


def _as_targets(tensor: Tensor) -> Tensor:
    labels = tensor.dim() < 3 and not tensor.is_floating_point() and tensor.dtype is not torch.bool
    return tensor.long() if labels else tensor


# ------------------------------------------------------------------------------------------------------------ identity
def _digest(parts: Any) -> str:
    """sha256 of arrays and tensors: bytes, shape and dtype."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{str(part.dtype).removeprefix('torch.')} {tuple(part.shape)}".encode())
        if not isinstance(part, StreamedImages):
            array = part.cpu().contiguous().view(-1).view(torch.uint8).numpy() if isinstance(part, Tensor) else part
            total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
