"""The samples of a comparison: what the packed net is fed, and how the model as trained saw the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onebit.data import Dataset, Split
from onebit.errors import DataError, UsageError, short
from onebit.evaluation.nested import joined, leaves, mapped, size_of
from onebit.evaluation.packed_nets import fitted_to
from onebit.evaluation.sources import ArraySamples, Samples, as_samples
from onebit.packed import PackedNet
from onebit.runtime.inputs import check_images

Trained = Callable[[Tensor], Any] | Any
"""How the model as trained sees the samples: a function from what the packed net takes to outputs, all outputs, or data
of any form, with the same samples in the same order, that the model is fed."""


FLOATS = "float32", "float64"


def packed_samples(packed: PackedNet, data: Any) -> Samples:
    """Samples that a packed net is fed; data of any form, see `onebit.evaluation.sources`."""
    if isinstance(data, Dataset):
        data = data.test
    if isinstance(data, Split) and data.labels.ndim > 1:
        data = fitted_to(packed, data)
    inputs = data[0] if isinstance(data, (tuple, list)) and len(data) == 2 else getattr(data, "images", data)
    if getattr(inputs, "shape", None) and not len(inputs):
        raise UsageError("got no images, expected some to compare the two nets on")
    indexed = hasattr(data, "shape") and hasattr(data, "dtype") and not isinstance(data, Tensor)
    samples = ArraySamples(data) if indexed and not hasattr(data, "__array__") else as_samples(data)
    if isinstance(samples, ArraySamples):
        check_fed(packed, samples.inputs)
    return samples


def batches_of(samples: Samples, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """(inputs, targets), each batch but the last of `batch_size` samples; a loader has its own batches."""
    if isinstance(samples, ArraySamples):
        starts = range(0, len(samples), batch_size)
        return samples.batches(indices=[slice(start, start + batch_size) for start in starts])
    return samples.batches()


def check_fed(packed: PackedNet, inputs: Any) -> None:
    """Raise UsageError for inputs that a packed net does not take."""
    expected, got = packed.input.dtype, str(inputs.dtype).removeprefix("torch.")
    # numpy's default dtype is handed out as float32
    check_images(packed.input, inputs[:0].astype(expected) if (expected, got) == FLOATS else inputs)


def output_keys(packed: PackedNet) -> dict[str, str]:
    """The outputs of a net: what the user calls each, and the name of its value; for a single one the empty name."""
    output = packed.output
    if isinstance(output, str):
        return {"": output}
    if isinstance(output, dict):
        return dict(output)
    return {f"output {index}": name for index, name in enumerate(output)}


def by_key(packed: PackedNet, value: Any, who: str) -> dict[str, np.ndarray]:
    """The outputs of a model, or something else in their structure, by `output_keys`."""
    output = packed.output
    if isinstance(output, str):
        parts = {"": value}
        fits = not isinstance(value, (tuple, list, dict))
    elif isinstance(output, dict):
        fits = hasattr(value, "keys") and set(value.keys()) == set(output)
        parts = {key: value[key] for key in output} if fits else {}
    else:
        fits = isinstance(value, (tuple, list)) and len(value) == len(output)
        parts = {f"output {index}": part for index, part in enumerate(value)} if fits else {}
    if not fits:
        got = f"a {type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else short(value)
        expected = "one array" if isinstance(output, str) else f"the outputs {', '.join(output_keys(packed))}"
        raise UsageError(f"{who} {got}, the packed net {expected}: it is from another model")
    return {key: _array(part) for key, part in parts.items()}


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().float().numpy() if isinstance(value, Tensor) else np.asarray(value)


class Labels:
    """The targets of all samples in order, from `labels` or from the batches of data.

    Args:
        labels: (N, …), or a tuple or dict of such as the outputs of the net; None for those of the data.
    """

    def __init__(self, packed: PackedNet, labels: Any, count: int | None) -> None:
        if isinstance(labels, (tuple, list)) and not any(np.ndim(part) for part in labels):
            labels = np.asarray(labels)
        self.packed, self.labels = packed, labels
        if count is not None:
            self.check_end(count)

    def check_end(self, count: int) -> None:
        """Raise UsageError if there are more or fewer labels than samples; streams are counted only at the end."""
        for part in () if self.labels is None else _parts(self.labels):
            if len(part) != count:
                raise UsageError(f"got {len(part):,} labels for {count:,} images")

    def batch(self, targets: Any, start: int, stop: int) -> dict[str, np.ndarray]:
        """Targets of samples start to stop for each output that has some."""
        if self.labels is not None:
            targets = _sliced(self.labels, start, stop)
        if targets is None:
            return {}
        if isinstance(targets, (tuple, list, dict)):
            return {key: _target(part) for key, part in _structured(self.packed, targets).items()}
        keys = output_keys(self.packed)
        if len(keys) == 1:
            return {next(iter(keys)): _target(targets)}
        values = self.packed.values
        wide = [key for key, name in keys.items() if len(values[name].shape) in (1, 3) and values[name].shape[0] > 1]
        target = _target(targets)
        if len(wide) != 1 or target.dtype.kind == "f":
            raise UsageError(
                f"got one array of targets for a net with {len(keys)} outputs, expected a tuple or dict with the "
                "targets of each"
            )
        return {wide[0]: target}


def _structured(packed: PackedNet, targets: Any) -> dict[str, Any]:
    """Targets by output; those that are None are left out."""
    keys = list(output_keys(packed))
    if isinstance(targets, dict) and isinstance(packed.output, dict) and set(targets) <= set(keys):
        found = dict(targets)
    elif (
        isinstance(targets, (tuple, list)) and not isinstance(packed.output, (dict, str)) and len(targets) == len(keys)
    ):
        found = dict(zip(keys, targets, strict=True))
    else:
        raise UsageError(
            f"got targets in a {type(targets).__name__} of {len(targets)}, the net has the outputs "
            f"{', '.join(keys) if keys != [''] else 'of one tensor'}"
        )
    return {key: part for key, part in found.items() if part is not None}


def _target(value: Any) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [part for part in value.values() if part is not None]
    if isinstance(value, (tuple, list)):
        return [part for part in value if part is not None]
    return [value]


def _sliced(labels: Any, start: int, stop: int) -> Any:
    if isinstance(labels, dict):
        return {key: None if part is None else part[start:stop] for key, part in labels.items()}
    if isinstance(labels, (tuple, list)):
        return tuple(None if part is None else part[start:stop] for part in labels)
    return labels[start:stop]


class TrainedFeed:
    """What the model as trained makes of the samples, batch by batch.

    Args:
        packed: gives the shapes of the outputs.
        trained: see `Trained`.
        count: number of samples, None if it is not known.
    """

    def __init__(self, packed: PackedNet, trained: Trained, count: int | None) -> None:
        self.packed, self.trained = packed, trained
        self.batches: Iterator[tuple[Any, Any]] | None = None
        self._kept: tuple[Any, Any] | None = None
        given = None
        if callable(trained):
            return
        if self._are_outputs():
            given, what = len(next(iter(_parts(trained)))), "logits of the model as trained"
        else:
            samples = as_samples(trained, name="trained")
            self.batches = samples.batches()
            given, what = samples.count, "samples of the model as trained"
        if given is not None and count is not None and given != count:
            raise UsageError(f"got {given:,} {what} for {count:,} images")

    @property
    def feeds_model(self) -> bool:
        """Whether it gives inputs for the model, and not outputs."""
        return self.batches is not None

    def _are_outputs(self) -> bool:
        """Whether `trained` has the structure and the shapes of the outputs."""
        keys, values = output_keys(self.packed), self.packed.values
        shapes = [values[name].shape for name in keys.values()]
        given = list(_parts(self.trained))
        structured = isinstance(self.trained, (tuple, list, dict))
        if isinstance(self.packed.output, str) == structured:
            return False
        return len(given) == len(shapes) and all(
            tuple(getattr(part, "shape", (0, -1)))[1:] == shape for part, shape in zip(given, shapes, strict=True)
        )

    def outputs(self, inputs: Tensor, start: int) -> Any:
        """Outputs of a batch, where `trained` is a function or all outputs."""
        if callable(self.trained):
            return self.trained(inputs)
        return _sliced(self.trained, start, start + len(inputs))

    def take(self, count: int) -> tuple[Any, Any]:
        """Inputs for the model and targets of the next `count` samples."""
        assert self.batches is not None
        parts = [] if self._kept is None else [self._kept]
        have = sum(size_of(inputs) for inputs, _ in parts)
        while have < count:
            if (part := next(self.batches, None)) is None:
                raise DataError(f"trained: it gives fewer samples than the data, {have} of the last {count}")
            parts.append(part)
            have += size_of(part[0])
        inputs = joined([inputs for inputs, _ in parts])
        targets = None if parts[0][1] is None else joined([targets for _, targets in parts])
        now, later = slice(None, count), slice(count, None)
        self._kept = None
        if have > count:
            self._kept = mapped(lambda part: part[later], inputs), mapped(lambda part: part[later], targets)
        return mapped(lambda part: part[now], inputs), mapped(lambda part: part[now], targets)

    def check_end(self) -> None:
        """Raise DataError if samples are left over."""
        if self.batches is not None and (self._kept is not None or next(self.batches, None) is not None):
            raise DataError("trained: it gives more samples than the data; both give the same samples in one order")


def same_targets(ours: Any, theirs: Any, start: int) -> Any:
    """The targets of the data, or those of `trained` if they have none; DataError if both have some that differ."""
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    for one, other in zip(leaves(ours), leaves(theirs), strict=False):
        if one.shape == other.shape and not torch.equal(one.double(), other.double()):
            wrong = (one.double() != other.double()).reshape(len(one), -1).any(dim=1).nonzero()[0]
            raise DataError(
                f"the labels of data and trained differ, first at sample {start + int(wrong):,}: both give the same "
                "samples in the same order; a loader with shuffle=True is read in the order of its data set"
            )
    return ours
