"""The samples of a comparison: batches of the same samples from several sources, outputs and targets by key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.errors import DataError, UsageError
from onebit.evaluation.sources import as_samples
from onebit.evaluation.trees import called, joined, mapped, size_of
from onebit.packed import PackedNet

Trained = Callable[[Tensor], Any] | Any
"""The samples as in training, in the same order: a function from the inputs of the packed net to outputs; all outputs;
or the inputs of the model, in any form of data."""


class InOrder:
    """Re-batches samples: each `take` gives the next ones; DataError for too few or too many. Messages use `name`."""

    def __init__(self, batches: Iterable[Any], *, name: str) -> None:
        self._batches, self._name = iter(batches), name
        self._rest: Any = None

    def take(self, count: int) -> Any:
        """The next `count` samples."""
        parts = [] if self._rest is None else [self._rest]
        while sum(map(size_of, parts)) < count:
            if (part := next(self._batches, None)) is None:
                raise DataError(f"got fewer {self._name} than images")
            parts.append(part)
        whole = joined(parts) if len(parts) > 1 else parts[0]
        rest = mapped(lambda part: part[count:], whole)
        self._rest = rest if size_of(rest) else None
        return mapped(lambda part: part[:count], whole)

    def check_end(self) -> None:
        """Raise DataError if samples are left over."""
        if self._rest is not None or next(self._batches, None) is not None:
            raise DataError(f"got more {self._name} than images")


class TrainedFeed(InOrder):
    """The outputs of the model as trained; `feeds_model` if they are computed from inputs of the model."""

    def __init__(self, packed: PackedNet, trained: Trained) -> None:
        batches: Iterable[Any] = ()
        self._function = trained if callable(trained) else None
        self.feeds_model = self._function is None and not are_outputs(packed, trained)
        if self.feeds_model:
            batches = as_samples(trained, name="trained").batches()
        elif self._function is None:
            batches = [(tensors(trained), None)]
        super().__init__(batches, name="samples of the model as trained")

    def outputs(self, model: nn.Module, inputs: Any, count: int) -> tuple[Any, Any]:
        """Outputs for the next inputs, and their targets or None."""
        if self._function is not None:
            return self._function(mapped(Tensor.clone, inputs)), None
        given, targets = self.take(count)
        if not self.feeds_model:
            return given, targets
        return called(model, given), targets


def tensors(value: Any) -> Any:
    """Arrays, lists of numbers and tensors as tensors, also in tuples or dicts; None stays."""
    if isinstance(value, dict):
        return {key: tensors(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)) and any(np.ndim(part) for part in value):
        return tuple(map(tensors, value))
    if value is None or isinstance(value, Tensor):
        return value
    array = np.asarray(value)  # any byte order and strides, also read-only
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def output_shapes(packed: PackedNet) -> dict[str, tuple[int, ...]]:
    """The shape of each output for one sample."""
    return {key: packed.values[name].shape for key, name in packed.keyed.items()}


def by_key(packed: PackedNet, value: Any) -> dict[str, Any] | None:
    """The parts of a value by the keys of `PackedNet.keyed`; None if it is not structured like the outputs.

    Parts may be None, and those of a dict may be missing.
    """
    output, keys, structured = packed.output, packed.keyed, isinstance(value, (tuple, list))
    if isinstance(output, dict) and hasattr(value, "keys") and set(value.keys()) <= set(keys):
        parts = dict(value)
    elif isinstance(output, tuple) and structured and len(value) == len(keys):
        parts = dict(zip(keys, value, strict=True))
    elif isinstance(output, str) and not structured and not isinstance(value, dict):
        parts = {"": value}
    else:
        return None
    return {key: part for key, part in parts.items() if part is not None}


def are_outputs(packed: PackedNet, value: Any) -> bool:
    """Whether a value has the structure and the shapes of the outputs."""
    shapes = {key: tuple(getattr(part, "shape", (0, -1)))[1:] for key, part in (by_key(packed, value) or {}).items()}
    return shapes == output_shapes(packed)


def outputs_by_key(packed: PackedNet, made: Any, count: int, *, who: str) -> dict[str, np.ndarray]:
    """Outputs for `count` samples as arrays; UsageError if the packed net has other shapes."""
    found = {key: _array(part) for key, part in (by_key(packed, made) or {}).items()}
    shapes = {key: array.shape for key, array in found.items()}
    expected = {key: (count, *shape) for key, shape in output_shapes(packed).items()}
    if shapes != expected:
        sizes = [of.get("", of) for of in (shapes, expected)]
        raise UsageError(f"{who}: got outputs {sizes[0]}, the packed net has {sizes[1]}: it is from another model")
    return found


def targets_by_key(packed: PackedNet, targets: Any) -> dict[str, np.ndarray]:
    """Targets by output; bare labels belong to the only output of logits."""
    if targets is None:
        return {}
    if (found := by_key(packed, targets)) is None:
        shapes = output_shapes(packed)
        logits = [key for key, shape in shapes.items() if len(shape) in (1, 3) and shape[0] > 1]
        if len(logits) != 1 or not isinstance(targets, Tensor) or targets.is_floating_point():
            raise UsageError(f"got targets in a {type(targets).__name__}, expected targets of the outputs {shapes}")
        found = {logits[0]: targets}
    return {key: _array(part) for key, part in found.items()}


def _array(value: Any) -> np.ndarray:
    """A tensor as an array; numpy has no bfloat16, and float16 sums overflow."""
    if not isinstance(value, Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() else value).numpy()
