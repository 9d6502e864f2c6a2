"""Trees of tensors: inputs, outputs and targets may be a tensor, or tuples or dicts of trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from onebit.errors import DataError


def size_of(value: Any) -> int:
    """Number of samples of the first tensor."""
    return len(next(leaves(value)))


def leaves(value: Any, *, leaf: Any = Tensor) -> Iterator[Any]:
    """The tensors of a tree; for `leaf` see `mapped`."""
    found: list[Any] = []
    mapped(found.append, value, leaf=leaf)
    if not found:
        raise DataError(f"got {type(value).__name__}, expected tensors, or tuples or dicts of tensors")
    return iter(found)


def mapped(change: Callable[..., Any], value: Any, *others: Any, leaf: Any = Tensor) -> Any:
    """The tree of `change(tensor)` for every tensor; None stays.

    Args:
        others: trees of the same structure, whose tensors `change` gets as well.
        leaf: the classes of what `change` gets.
    """
    if value is None or isinstance(value, leaf):
        return None if value is None else change(value, *others)
    if isinstance(value, Mapping):
        return {key: mapped(change, item, *(x[key] for x in others), leaf=leaf) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [mapped(change, *each, leaf=leaf) for each in zip(value, *others, strict=True)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    raise DataError(f"got {type(value).__name__}, expected tensors, or tuples or dicts of tensors")


def called(model: Callable[..., Any], inputs: Any) -> Any:
    """The outputs of a model: a tuple of inputs is its arguments, a dict its keyword arguments, as in `onebit.pack`."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def joined(parts: list[Any]) -> Any:
    """Concatenate trees of the same structure."""
    return mapped(lambda *tensors: torch.cat(tensors), *parts)


def floats(outputs: Any, task: str | None = None) -> Any:
    """Outputs of a model in float32; entries of a dict that are no tensors, such as a cache, are left out.

    Args:
        task: if the loss has one, it takes the logits of an object or a dict that holds "logits", as of transformers.
    """
    if task is not None:
        held = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
        outputs = outputs if held is None else held
    if isinstance(outputs, Mapping):
        kept = {key: item for key, item in outputs.items() if isinstance(item, (Tensor, Mapping, tuple, list))}
        return mapped(Tensor.float, kept)
    return mapped(Tensor.float, outputs)


def split_in(value: Any, parts: int) -> list[Any]:
    """Split the samples of a tree into `parts` trees."""
    return [mapped(lambda tensor, part=part: tensor.tensor_split(parts)[part], value) for part in range(parts)]


def to_device(value: Any, device: torch.device) -> Any:
    """The tree on a device."""
    return mapped(lambda tensor: tensor.to(device), value)


def first_samples(value: Any, count: int) -> Any:
    """The first samples of a tree."""
    return mapped(lambda tensor: tensor[:count], value)
