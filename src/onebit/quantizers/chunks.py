"""Several passes over large tensors in chunks that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from onebit.quantizers.base import memory_order

CHUNK = 1 << 17
"""Elements of a chunk: two float32 tensors of this size take 1 MiB."""


def in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same chunks of tensors of one shape, as (n,) views.

    Tensors of different memory layouts, or on a GPU, where short passes are slow, come whole, in their shape.
    """
    first = tensors[0]
    order = memory_order(first)
    alike = all(x.stride() == first.stride() and x.permute(order).is_contiguous() for x in tensors)
    if first.device.type == "cpu" and alike:
        yield from zip(*(x.permute(order).view(-1).split(CHUNK) for x in tensors), strict=True)
    else:
        yield tensors
