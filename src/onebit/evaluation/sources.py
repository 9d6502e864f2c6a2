"""Data of any form as batches of (inputs, targets): a loader, a torch data set, arrays, a split, or a `Dataset`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from onebit.common.arguments import check_number, described
from onebit.data import Dataset, Split, StreamedImages
from onebit.errors import DataError, UsageError, WrongTypeError
from onebit.evaluation.batches import array_batches, batch_indices, fitting_batch
from onebit.evaluation.loaders import (
    batch_samples,
    chosen,
    held_tensors,
    is_iterable,
    is_known,
    keeps_order,
    loader_length,
    repeated,
    sample_count,
    seeded_globals,
    sequential,
    torch_seeded,
)
from onebit.evaluation.nested import size_of

FORMS = "a DataLoader, a torch Dataset, a pair (inputs, targets) of arrays or tensors, a Split or a onebit.Dataset"
LOADER_BATCH = 100
"""Samples of a batch of a torch data set that comes without a loader."""
DIGEST_SAMPLES = 8
"""Samples of a data set that identify it, where it computes them."""


@dataclass(frozen=True, eq=False)
class ArraySamples:
    """Inputs and targets in memory, or streamed images.

    Args:
        inputs: array, tensor or `StreamedImages`, (N, …); float64 arrays are handed out as float32.
        targets: array or tensor (N, …), or None; integers but masks are handed out as int64, float64 as float32.
        name: of the data, for messages.
    """

    inputs: Any
    targets: Any = None
    name: str = "data"

    repeatable = True

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def count(self) -> int:
        return len(self.inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.inputs.shape[1:])

    def __getitem__(self, index: Any) -> ArraySamples:
        inputs = self.inputs
        chosen = inputs.subset(index) if isinstance(inputs, StreamedImages) else inputs[index]
        return replace(self, inputs=chosen, targets=None if self.targets is None else self.targets[index])

    def spread(self, count: int) -> ArraySamples:
        """`count` evenly spaced samples, the first and the last among them; all if there are no more."""
        if count >= len(self):
            return self
        return self[np.linspace(0, len(self) - 1, count).astype(np.int64)]

    def batches(self, batch_size: int | None = None, *, indices: Any = None) -> Iterator[tuple[Any, Any]]:
        """(inputs, targets) as tensors, in order, or those at each of `indices`; targets may be None."""
        if indices is None:
            indices = batch_indices(len(self), fitting_batch(self.shape) if batch_size is None else batch_size)
        arrays = [self.inputs, *(() if self.targets is None else (self.targets,))]
        for inputs, *targets in array_batches(arrays, indices):
            yield _single(inputs, self.inputs), _as_targets(targets[0], self.targets) if targets else None

    def mixed(self, count: int, batch_size: int | None = None) -> Iterator[Any]:
        """Inputs of `count` samples, evenly spread; each batch is drawn from all of them with a fixed seed."""
        chosen = replace(self.spread(count), targets=None)
        size = fitting_batch(self.shape) if batch_size is None else batch_size
        for inputs, _ in chosen.batches(indices=batch_indices(len(chosen), size, mixed=True)):
            yield inputs

    @cached_property
    def digest(self) -> str:
        """sha256 of bytes, shape and dtype of inputs and targets; streamed images by their number and targets."""
        parts = [part for part in (self.inputs, self.targets) if part is not None]
        return "arrays " + _digest(parts)

    unchecked = ""
    """What the digest does not cover, in words."""


@dataclass(frozen=True, eq=False)
class LoaderSamples:
    """The samples of a torch DataLoader, with its own collate function and batch size.

    Args:
        loader: gives (inputs, targets), each a tensor, or a tuple or dict of tensors.
    """

    loader: DataLoader[Any]
    name: str = "the loader"

    @cached_property
    def ordered(self) -> DataLoader[Any]:
        """The loader that gives the samples in the order of the data set, where its sampler allows that."""
        return sequential(self.loader)

    @property
    def count(self) -> int | None:
        """Samples of a pass in order; None if the loader does not know."""
        return sample_count(self.ordered)

    @cached_property
    def steps(self) -> int:
        """Batches of an epoch; a loader that does not know its length is read once to count them."""
        known = loader_length(self.loader)
        if known is None:
            known = sum(1 for _ in repeated(self.loader))
        if not known:
            raise UsageError(f"{self.name}: the loader is empty, it gives no batches")
        return known

    @property
    def repeatable(self) -> bool:
        """Whether each pass gives the samples in the same order."""
        return self.ordered is not self.loader or keeps_order(self.loader)

    def batches(self, batch_size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """(inputs, targets) in order, as the collate function makes them; targets are None if there are none.

        Random transforms draw the same numbers in each pass.
        """
        del batch_size  # the loader has its own
        expected, given = loader_length(self.ordered), 0
        for batch in repeated(self.ordered):
            inputs, targets = parts_of(batch)
            given += 1
            yield inputs, targets
        if expected is not None and given != expected:
            raise length_error(self.name, expected, given)

    def mixed(self, count: int, batch_size: int | None = None) -> Iterator[Any]:
        """Inputs of the first batches with about `count` samples, in an order of the loader that is always the same.

        A batch of a single sample, which has no variance, is left out behind a larger one.
        """
        done = most = 0
        for batch in repeated(self.loader):
            inputs, _ = parts_of(batch)
            most = max(most, size_of(inputs))
            if size_of(inputs) == 1 < most:
                continue
            yield inputs
            if (done := done + size_of(inputs)) >= count:
                return

    @cached_property
    def digest(self) -> str:
        """What identifies the data: all bytes where they are in memory, else the length and a few samples."""
        tensors, order = held_tensors(self.loader), chosen(self.loader)
        of_order = f", chosen by {_digest(order)}" if order else ""
        if tensors is not None:
            return "arrays " + _digest(tensors) + of_order
        seen = _few_samples(self.loader)
        count = f"{loader_length(self.loader)} batches" if self.count is None else f"{self.count} samples"
        return f"loader of {count}" + ("" if seen is None else f", the first are {seen}") + of_order

    @cached_property
    def unchecked(self) -> str:
        """What the digest does not cover, in words; "" if it covers all."""
        if held_tensors(self.loader) is not None:
            known = is_known(self.loader)
            return "" if known else "on resume the sampler and the collate function of the loader are not compared"
        if is_iterable(self.loader.dataset):
            return "the samples of an iterable data set are not compared on resume"
        return "on resume only the number of samples and the first ones are compared"


Samples = ArraySamples | LoaderSamples


# ------------------------------------------------------------------------------------------------------------ any form
def as_samples(data: Any, *, name: str = "data", batch_size: int | None = None) -> Samples:
    """Data of any form as samples; those of a `Dataset` are its test split.

    Args:
        data: one of FORMS; or inputs alone, an array or a tensor, which then have no targets.
        name: of the argument, for messages.
        batch_size: of a torch data set that comes without a loader, which then shuffles it for training; a loader has
            its own.
    """
    if isinstance(data, (ArraySamples, LoaderSamples)):
        return data
    if batch_size is not None:
        check_number("batch_size", batch_size, whole=True, least=1)
    if isinstance(data, Dataset):
        return as_samples(data.test, name=f"the test split of {data.name}")
    if isinstance(data, Split):
        return ArraySamples(data.images, data.labels, name)
    if isinstance(data, DataLoader):
        if batch_size is not None and (own := batch_samples(data)) != batch_size:
            of = "of its own" if own is None else f"of {own}"
            raise UsageError(
                f"{name}: batch_size={batch_size} and a DataLoader with batches {of}: leave batch_size out, "
                "a loader has its own"
            )
        if loader_length(data) == 0:
            raise UsageError(f"{name}: the loader is empty, it gives no batches{_why_empty(data)}")
        return LoaderSamples(data, name)
    if isinstance(data, TorchDataset):
        if is_iterable(data):
            raise WrongTypeError(
                f"{name}: got {type(data).__name__}, an iterable data set, expected it in a loader: "
                "torch.utils.data.DataLoader(dataset, batch_size=...)"
            )
        if not len(data):  # type: ignore[arg-type]
            raise UsageError(f"{name}: the data set {type(data).__name__} is empty")
        return LoaderSamples(DataLoader(data, batch_size=batch_size or LOADER_BATCH, shuffle=True), name)
    return _arrays(data, name)


def _arrays(data: Any, name: str) -> ArraySamples:
    """A pair of arrays, or inputs alone."""
    if isinstance(data, (tuple, list)):
        if len(data) != 2:
            stacked = "" if isinstance(data, tuple) else "; numpy.stack makes one array of a list"
            raise WrongTypeError(f"{name}: got a {type(data).__name__} of {len(data)}, expected {FORMS}{stacked}")
        inputs, targets = _array(data[0], f"{name}: inputs"), data[1]
        targets = None if targets is None else _array(targets, f"{name}: targets")
    elif isinstance(data, (Tensor, StreamedImages)) or hasattr(data, "__array__"):
        inputs, targets = _array(data, f"{name}: inputs"), None
    else:
        named = "; load it first: onebit.load_dataset(name)" if isinstance(data, (str, os.PathLike)) else ""
        raise WrongTypeError(f"{name}: got {described(data)}, expected {FORMS}{named}")
    if not inputs.ndim or (targets is not None and not targets.ndim):
        raise DataError(f"{name}: got a single number, expected (N, …)")
    if targets is not None and len(inputs) != len(targets):
        raise DataError(f"{name}: got {len(inputs):,} inputs and {len(targets):,} targets, expected as many")
    if not len(inputs):
        raise UsageError(f"{name}: there are no samples, got inputs {tuple(inputs.shape)}")
    return ArraySamples(inputs, targets, name)


def _array(value: Any, name: str) -> Any:
    """A tensor or a numpy array of numbers."""
    if isinstance(value, (Tensor, StreamedImages)):
        return value.detach() if isinstance(value, Tensor) else value
    if not hasattr(value, "__array__"):
        raise WrongTypeError(f"{name}: got {described(value)}, expected an array or a tensor: numpy.asarray(...)")
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: got {array.dtype} {array.shape}, expected numbers: encode them as integers")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # torch takes no other byte order
    return array if all(stride >= 0 for stride in array.strides) else array.copy()  # nor negative strides


# ------------------------------------------------------------------------------------------------------------- batches
def parts_of(batch: Any) -> tuple[Any, Any]:
    """The inputs and targets of a batch of a loader; inputs alone have None."""
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2):
        return (batch[0], None) if len(batch) == 1 else (batch[0], batch[1])
    got = f"a {type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else described(batch)
    raise DataError(f"the loader gives {got}, expected a pair (inputs, targets): let its collate_fn return one")


def length_error(name: str, expected: int, given: int) -> DataError:
    """The error for a loader whose length is not the number of its batches."""
    return DataError(f"{name}: its length is {expected:,} batches, it gave {given:,}: every epoch needs as many")


def _single(tensor: Tensor, source: Any) -> Tensor:
    """float32 of what numpy made float64, its default, as nets have float32 weights; a tensor stays what it is."""
    is_default = not isinstance(source, Tensor) and tensor.dtype in (torch.float64, torch.float16)
    return tensor.float() if is_default else tensor


def _as_targets(tensor: Tensor, source: Any) -> Tensor:
    if tensor.dim() < 3 and not tensor.is_floating_point() and tensor.dtype is not torch.bool:
        return tensor.long()
    return _single(tensor, source)


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


def _few_samples(loader: DataLoader[Any]) -> str | None:
    """A digest of the first samples of a data set; None if they differ from one look to the next, or cannot be seen."""
    dataset: Any = loader.dataset
    if is_iterable(dataset) or not hasattr(dataset, "__len__"):
        return None
    seen = [_look(dataset, min(len(dataset), DIGEST_SAMPLES)) for _ in range(2)]
    return seen[0] if seen[0] == seen[1] else None


def _look(dataset: Any, count: int) -> str | None:
    """A digest of the first samples with all global random numbers seeded, as transforms draw from them."""
    with torch_seeded(), seeded_globals(0):
        samples = [dataset[index] for index in range(count)]
    total = hashlib.sha256()
    for sample in samples:
        for value in sample if isinstance(sample, (tuple, list)) else [sample]:
            if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)):
                return None
            total.update(_digest([torch.as_tensor(value)]).encode())
    return total.hexdigest()[:16]


def _why_empty(loader: DataLoader[Any]) -> str:
    size = sample_count(loader) if not loader.drop_last else None
    return " (drop_last drops its only batch)" if size is None and len(loader.dataset) else ""  # type: ignore[arg-type]
