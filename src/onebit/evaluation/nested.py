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
    return iter(found)


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """`change` of every tensor of a nested value, in the same structure; None stays."""
    if value is None or isinstance(value, Tensor):
        return None if value is None else change(value)
    if isinstance(value, Mapping):
        return {key: mapped(change, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(change, item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(change, item) for item in value)
    raise DataError(f"got {type(value).__name__}, expected tensors, or tuples or dicts of tensors")


def joined(parts: list[Any]) -> Any:
    """The batches of `parts`, tensors or alike tuples or dicts of tensors, one after the other."""
    return _refilled(parts[0], map(torch.cat, zip(*map(leaves, parts), strict=True)))


def split_in(value: Any, parts: int) -> list[Any]:
    """A nested value in `parts` parts of its samples."""
    chunks = zip(*(leaf.tensor_split(parts) for leaf in leaves(value)), strict=True)
    return [_refilled(value, iter(chunk)) for chunk in chunks]


def _refilled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The structure of a nested value with other tensors."""
    return mapped(lambda _: next(tensors), value)


def first_samples(value: Any, count: int) -> Any:
    """The first samples of a nested value."""
    return mapped(lambda tensor: tensor[:count], value)
