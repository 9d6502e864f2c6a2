"""Data of any form as batches of (inputs, targets): a loader, a torch data set, arrays, a split, or a `Dataset`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset, IterableDataset, TensorDataset

from onebit.data import Dataset, Split, StreamedImages, prefetched
from onebit.errors import DataError, UsageError
from onebit.evaluation.loaders import batch_samples, known_length, repeated, sampler_of, sequential
from onebit.evaluation.trees import leaves, mapped, size_of

BATCH_SIZE = 100
"""Default number of samples of a batch."""
ARRAYS = (Tensor, np.ndarray, StreamedImages)
"""What a tree of samples holds."""
_each, _arrays = partial(mapped, leaf=ARRAYS), partial(leaves, leaf=ARRAYS)


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
        inputs: array or tensor (N, …), or a tuple or dict of them, or `StreamedImages`; batches of float64 arrays are
            float32.
        targets: the same, or None; in batches integers but masks are int64, float64 arrays float32.
        name: of the data, for messages.
        classes: the name of each label, if the targets were names.
    """

    inputs: Any
    targets: Any = None
    name: str = "data"
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(_arrays(self.inputs)))

    count = property(__len__)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(next(_arrays(self.inputs)).shape[1:])

    def __getitem__(self, index: Any) -> ArraySamples:
        inputs = self.inputs
        chosen = inputs.subset(index) if isinstance(inputs, StreamedImages) else _each(itemgetter(index), inputs)
        return replace(self, inputs=chosen, targets=_each(itemgetter(index), self.targets))

    def batches(self, batch_size: int | None = None, *, indices: Any = None) -> Iterator[tuple[Any, Any]]:
        """(inputs, targets) as tensors, in order, or those at each of `indices`; targets may be None."""
        ordered = indices is None
        if ordered:
            indices = [slice(*bounds) for bounds in self._bounds(batch_size)]
        pairs = ((_each(at, self.inputs), _each(at, self.targets)) for at in map(itemgetter, indices))
        for x, y in prefetched(pairs) if isinstance(self.inputs, StreamedImages) else pairs:
            inputs = _each(_tensor, x)
            check_finite(inputs, self.name, wait=ordered)
            yield inputs, _each(_as_targets, y)

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
        return "arrays " + _digest(_arrays((self.inputs, self.targets)))


@dataclass(frozen=True, eq=False)
class LoaderSamples:
    """The samples of a torch DataLoader, with its own collate function and batch size.

    Args:
        loader: gives (inputs, targets), each a tensor, or a tuple or dict of tensors; or dicts, see `pair_of`.
    """

    loader: DataLoader[Any]
    name: str = "the loader"
    shape, classes = (), ()  # unknown

    @property
    def count(self) -> int | None:
        """Samples of a pass in order; None if unknown."""
        if batch_samples(self.loader) is None:
            return None
        dataset = self.loader.dataset
        return known_length(dataset if isinstance(dataset, IterableDataset) else sampler_of(self.loader))

    @property
    def length(self) -> int | None:
        """Batches of a pass; None if unknown."""
        return known_length(self.loader)

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
        count = f"{self.length} batches" if self.count is None else f"{self.count} samples"
        return f"loader of {count}"


Samples = ArraySamples | LoaderSamples


# ------------------------------------------------------------------------------------------------------------ any form
def as_samples(
    data: Any, *, name: str = "data", batch_size: int | None = None, classes: Sequence[str] | None = None
) -> Samples:
    """Data of any form as samples; those of a `Dataset` are its test split.

    Args:
        data: a DataLoader, a torch Dataset, a pair (inputs, targets) of arrays or tensors, a list of samples, a Split
            or a Dataset; or inputs alone, an array, a tensor or a dict of them, which then have no targets. Inputs may
            be a tuple or a dict in a pair, and targets may be names of classes.
        name: of the argument, for messages.
        batch_size: of a torch data set without a loader, which training shuffles; a loader has its own.
        classes: the names of classes, in the order of their numbers; None for those of the data, sorted.
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
    if isinstance(data, list) and data and all(isinstance(one, (tuple, Mapping)) for one in data):
        data = pair_of(_stacked(data), name)
    inputs, targets = pair_of(data, name) if isinstance(data, (tuple, list)) else (data, None)
    targets, named = _numbered(_array(targets), classes, name)
    inputs = _array(inputs)
    sizes: list[int] = []
    _each(lambda part: sizes.append(len(part)), (inputs, targets))
    if len({*sizes}) > 1:
        raise DataError(f"{name}: got {', '.join(f'{size:,}' for size in sizes)} samples, expected equal numbers")
    return ArraySamples(inputs, targets, name, named)


def _stacked(samples: Sequence[Any]) -> Any:
    """The samples of a list as one batch."""
    if isinstance(samples[0], Mapping):
        return {key: _stacked([sample[key] for sample in samples]) for key in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(map(_stacked, zip(*samples, strict=True)))
    return torch.stack(list(samples)) if isinstance(samples[0], Tensor) else np.asarray(samples)


def _numbered(targets: Any, classes: Sequence[str] | None, name: str) -> tuple[Any, tuple[str, ...]]:
    """The numbers of classes for their names, and all names; other targets stay."""
    texts = targets.ravel().tolist() if isinstance(targets, np.ndarray) and targets.dtype.kind in "OTU" else []
    if not texts or not all(isinstance(text, str) for text in texts):
        return targets, ()
    numbers = {text: number for number, text in enumerate(sorted({*texts}) if classes is None else classes)}
    if unknown := {*texts} - numbers.keys():
        raise DataError(f"{name}: got the class {min(unknown)!r}, expected {', '.join(numbers) or 'class numbers'}")
    return np.array([numbers[text] for text in texts]).reshape(targets.shape), tuple(numbers)


def with_tokens(data: Any, task: str | None) -> Any:
    """Data to train and evaluate on: a dict of arrays holds targets, see `pair_of`.

    A language model is to predict its own inputs: arrays of tokens (N, T) are their own targets. Negative tokens at
    the end of a row are padding, in place of which the model gets token 0: no token before them sees it. Arrays of
    uint16 and uint32, which have none, stay as they are: they may be memory-mapped.
    """
    data = pair_of(data, "data") if isinstance(data, dict) else data
    given = data if isinstance(data, (tuple, list)) else [data]
    if task != "language" or len(given) > 2 or not all(hasattr(part, "shape") for part in given):
        return data  # loaders, and several inputs, give tokens and targets themselves
    if all(isinstance(part, np.ndarray) and part.dtype in (np.uint16, np.uint32) for part in given):
        return given[0], given[-1]
    found = [torch.as_tensor(_array(part), dtype=torch.int64) for part in given]
    known = found[0] >= 0
    if bool((known[..., 1:] & ~known[..., :-1]).any()):
        raise UsageError("next_token: got negative tokens before others, expected padding at the end of rows")
    return found[0].clamp(min=0), found[-1]


def refuse_shifted(inputs: Any, targets: Any, task: str | None) -> None:
    """Refuse targets of a language model that are other tokens than its inputs."""
    inputs = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    if task != "language" or targets is None or not isinstance(inputs, Tensor) or inputs.is_floating_point():
        return
    if targets.shape != inputs.shape or not bool(((targets == inputs) | (targets < 0)).all()):
        raise UsageError("next_token: got targets that are not the inputs, which it shifts itself")


def _array(value: Any) -> Any:
    """A tensor, or an array in native byte order and contiguous, as torch takes it; or a dict or a tuple of them."""
    if isinstance(value, dict):
        return {key: _array(part) for key, part in value.items()}
    if isinstance(value, tuple) and all(getattr(part, "shape", ()) for part in value):  # not of numbers
        return tuple(map(_array, value))
    if value is None or isinstance(value, StreamedImages):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


# ------------------------------------------------------------------------------------------------------------- batches
TARGETS = ("labels", "label", "targets", "target", "y")
"""Names of targets in a dict."""


def pair_of(batch: Any, name: str) -> tuple[Any, Any]:
    """The inputs, and the targets or None: of (inputs, targets), or of a dict.

    A dict holds the targets under one of `TARGETS`; all else are keyword arguments of the model.
    """
    if isinstance(batch, Mapping):
        own = next((key for key in TARGETS if key in batch), None)
        return {key: part for key, part in batch.items() if key != own}, batch.get(own)
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    if len(parts) > 2:
        raise UsageError(f"{name}: got {len(parts)} parts, expected (inputs, targets), each of which may be a tuple")
    return parts[0], parts[1] if len(parts) == 2 else None


def parts_of(batch: Any, name: str, *, wait: bool = True) -> tuple[Any, Any]:
    """`pair_of` a batch of a loader; for `wait` see `check_finite`."""
    inputs, targets = pair_of(batch, name)
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
    if tensor.dtype in (torch.uint16, torch.uint32):  # torch computes little with them
        return tensor.long()
    return tensor.float() if tensor.dtype in (torch.float64, torch.float16) else tensor


def _as_targets(part: Any) -> Tensor:
    tensor = _tensor(part)
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
