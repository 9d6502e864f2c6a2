"""Many cheap passes over large tensors, a piece at a time: what one pass writes, the next finds in the cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from onebit.quantizers.base import memory_order

CHUNK = 1 << 17
"""Elements of a piece: a handful of float32 tensors of this size fit into 1 MiB."""


def flat(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """(n,) in the order of memory: a view of `x` where its memory layout allows it, else a copy."""
    return x.permute(order).reshape(-1)


def alike(*tensors: Tensor) -> bool:
    """Whether these tensors have one memory layout without gaps, so that their flat views are views."""
    order = memory_order(tensors[0])
    return all(x.stride() == tensors[0].stride() and x.permute(order).is_contiguous() for x in tensors)


def in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same pieces of each tensor, as (n,) views.

    Tensors of different memory layouts come whole, in their own shape; so do those on a GPU, whose passes are long
    against their start only if they are large.

    Args:
        tensors: of one shape.
    """
    first = tensors[0]
    if first.device.type != "cpu" or not alike(*tensors):
        yield tensors
        return
    order = memory_order(first)
    views = [flat(x, order) for x in tensors]
    if first.numel() <= CHUNK:
        yield tuple(views)
        return
    yield from zip(*(view.split(CHUNK) for view in views), strict=True)
