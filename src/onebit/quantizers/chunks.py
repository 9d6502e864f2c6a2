"""Many cheap passes over large tensors, a piece at a time: what one pass writes, the next finds in the cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from onebit.quantizers.base import memory_order

CHUNK = 1 << 17
"""Elements of a piece: a handful of float32 tensors of this size fit into 1 MiB."""


def in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same pieces of each tensor, as (n,) views.

    Tensors of different memory layouts come whole, in their own shape; so do those on a GPU, whose passes are long
    against their start only if they are large.

    Args:
        tensors: of one shape.
    """
    first = tensors[0]
    order = memory_order(first)
    alike = all(x.stride() == first.stride() and x.permute(order).is_contiguous() for x in tensors)
    if first.device.type == "cpu" and alike:
        yield from zip(*(x.permute(order).view(-1).split(CHUNK) for x in tensors), strict=True)
    else:
        yield tensors
