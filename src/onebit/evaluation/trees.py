"""Inputs, outputs and targets that are a tensor, or nested tuples or dicts of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from onebit.errors import DataError


def size_of(value: Any) -> int:
    """Number of samples of a tensor, or of the first one in a tuple or dict."""
    return len(next(leaves(value)))


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in a tensor, or in nested tuples and dicts of tensors."""
    found: list[Tensor] = []
    mapped(found.append, value)
    if not found:
        raise DataError(f"got {type(value).__name__}, expected tensors, or tuples or dicts of tensors")
    return iter(found)


def mapped(change: Callable[..., Any], value: Any, *others: Any) -> Any:
    """`change` of every tensor of a nested value, in the same structure; None stays.

    Args:
        others: values of the same structure, whose tensors `change` gets as well.
    """
    if value is None or isinstance(value, Tensor):
        return None if value is None else change(value, *others)
    if isinstance(value, Mapping):
        return {key: mapped(change, item, *(other[key] for other in others)) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [mapped(change, *each) for each in zip(value, *others, strict=True)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    raise DataError(f"got {type(value).__name__}, expected tensors, or tuples or dicts of tensors")


def joined(parts: list[Any]) -> Any:
    """The batches of `parts`, tensors or alike tuples or dicts of tensors, one after the other."""
    return mapped(lambda *tensors: torch.cat(tensors), *parts)


def split_in(value: Any, parts: int) -> list[Any]:
    """A nested value in `parts` parts of its samples."""
    return [mapped(lambda tensor, part=part: tensor.tensor_split(parts)[part], value) for part in range(parts)]


def first_samples(value: Any, count: int) -> Any:
    """The first samples of a nested value."""
    return mapped(lambda tensor: tensor[:count], value)
