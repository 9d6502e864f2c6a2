"""Pools of images and signals, and means over axes. A signal (C, L) is pooled as an image (C, 1, L)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from onebit.fold.arrange import picked, taken
from onebit.fold.call import Call, Shape, any_batch, any_dtype, batch_of, shown
from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Folder
from onebit.fold.shapes import as_size, on_images
from onebit.packed import AdaptiveAveragePool, AveragePool, MaxPool, Node
from onebit.packed.nodes.node import MAX_WIDTH, SUM_LIMIT


@on_images
@any_dtype
def max_pool(folder: Folder, call: Call, x: Pending, before: Shape, after: Shape) -> Pending:
    fields = _window(call, before, after, dilation=as_size(call, call.argument(4, "dilation", 1), 1))
    if _sees_all(folder, before, **fields):
        fields["whole"] = 1
    scales = [op.scale for op in x.ops if op.kind is None and op.shift is None and op.scale is not None]
    if scales and len(scales) == len(x.ops) and folder.values[x.base].exact and all((s > 0).all() for s in scales):
        return Pending(folder.emit(MaxPool, call.name, x.base, **fields), x.ops)  # scales stay deferred
    return folder.moved(call, x, MaxPool, **fields)


@on_images
def average_pool(folder: Folder, call: Call, x: Pending, before: Shape, after: Shape) -> Pending:
    if call.argument(6, "divisor_override", None) is not None:
        raise call.refusal("got divisor_override, expected None")
    fields, stated = _window(call, before, after), as_size(call, call.argument(3, "padding", 0), 0)
    if any(stated) and call.argument(5, "count_include_pad", True):
        if fields["padding"][1::2] != stated:
            raise call.refusal("its last windows count less padding than the others: use ceil_mode=False")
        fields["count_padding"] = 1
    del fields["dilation"]
    if _sees_all(folder, before, **fields):
        return _averaged(folder, call, x, before[2:], (1, 1))
    whole, pixels = not any(fields["padding"]), prod(fields["kernel"])
    if fields["kernel"] == (1, 1) and whole:
        strides = (1, *fields["stride"])
        ranges = [range(0, size, by) for size, by in zip(before[1:], strides, strict=True)]
        return picked(folder, call, x, before[1:], ranges)
    if whole and _is_scaled_integers(folder, x, pixels):
        return _average_of_integers(folder, call, x, **fields)
    if whole and not x.ops and _sums_fit(folder, x, pixels):  # a sign of the integer sums may follow
        return x.then(FoldedOp(call.name, lambda sums: sums / pixels, kind=AveragePool, fields=fields))
    return Pending(folder.emit(AveragePool, call.name, folder.write(x), **fields))


def _sees_all(folder: Folder, before: Shape, *, kernel: Shape, padding: Shape, **_: Any) -> bool:
    """Whether a window is the whole image, of whatever size."""
    return folder.free and kernel == before[2:] and not any(padding)


def _sums_fit(folder: Folder, x: Pending, pixels: int) -> bool:
    """Whether the base of `x` has integers whose sums over a window fit a packed net."""
    bound = folder.values[x.base].bound
    return bound is not None and pixels * bound <= SUM_LIMIT


def _is_scaled_integers(folder: Folder, x: Pending, pixels: int) -> bool:
    """Whether `x` is a number times integers so small that weights can multiply their sums over a window."""
    small = (folder.values[x.base].bound or 0) <= MAX_WIDTH and _sums_fit(folder, x, pixels)
    return small and bool(x.ops) and all(op.factor is not None for op in x.ops)


def _average_of_integers(folder: Folder, call: Call, x: Pending, **fields: Any) -> Pending:
    """Sums of windows of integers, with the division deferred."""
    pixels = prod(fields["kernel"])
    sums = folder.emit(AveragePool, call.name, x.base, **{**fields, "sums": 1})
    count = folder.values[sums].shape[0]
    mean = FoldedOp(f"{call.name}.mean", lambda x: x / pixels, scale=np.full(count, 1 / pixels), exact=False)
    return Pending(sums, (*x.ops, mean))


@on_images
def adaptive_average_pool(folder: Folder, call: Call, x: Pending, before: Shape, after: Shape) -> Pending:
    return _averaged(folder, call, x, before[2:], after[2:])


def _averaged(folder: Folder, call: Call, x: Pending, before: Shape, after: Shape) -> Pending:
    """The means of images of `before` pixels over `after` windows."""
    if after == (1, 1) and not folder.free and _is_scaled_integers(folder, x, prod(before)):
        return _average_of_integers(folder, call, x, kernel=before, stride=before)
    return Pending(folder.emit(AdaptiveAveragePool, call.name, folder.write(x), size=after))


@on_images
def adaptive_max_pool(folder: Folder, call: Call, x: Pending, before: Shape, after: Shape) -> Pending:
    if after[2:] == (1, 1):
        return folder.moved(call, x, MaxPool, kernel=before[2:], stride=before[2:], whole=1)
    kernel, image = [], before[1:]
    for axis, (old, new) in enumerate(zip(before[2:], after[2:], strict=True), 1):
        windows = [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        kernel.append(max(end - start for start, end in windows))  # smaller windows repeat their last pixel
        indices = [min(start + k, end - 1) for start, end in windows for k in range(kernel[-1])]
        x, image = taken(folder, call, x, image, axis, np.array(indices))
    return folder.moved(call, x, MaxPool, kernel=tuple(kernel), stride=tuple(kernel))


@any_batch
def mean(folder: Folder, call: Call, x: Pending) -> Pending:
    axes, (before, after) = axes_of(call), call.shapes
    if len(before) == 4 and axes == [2, 3]:
        y = _averaged(folder, call, x, before[2:], (1, 1))
    else:
        source = folder.write(_last(folder, call, x, axes))
        y = Pending(folder.emit(AdaptiveAveragePool, call.name, source, size=(1, 1)))
    return folder.reshaped(call, y, folder.values[y.base].shape, after[1:])


@any_batch
def over_axes(kind: type[Node], folder: Folder, call: Call, x: Pending, **fields: Any) -> Pending:
    """A reduction, as a pool whose window covers the reduced axes."""
    axes, (before, after) = axes_of(call), call.shapes
    if kind is MaxPool and len(before) == 4 and axes == [2, 3]:
        y = folder.moved(call, x, MaxPool, kernel=before[2:], stride=before[2:], whole=1)
        return folder.reshaped(call, y, (before[1], 1, 1), after[1:])
    return reduced(kind, folder, call, x, axes, after[1:], **fields)


def reduced(
    kind: type[Node], folder: Folder, call: Call, x: Pending, axes: Sequence[int], shape: Shape, **fields: Any
) -> Pending:
    """A pool over these axes, with the batch as axis 0, in this shape."""
    count = prod(call.before[axis] for axis in axes)
    made = folder.emit(kind, call.name, folder.write(_last(folder, call, x, axes)), kernel=(1, count), **fields)
    return folder.reshaped(call, Pending(made), folder.values[made].shape, shape)


def axes_of(call: Call, at: int = 1) -> list[int]:
    """The axes of a reduction, in order, with the batch as axis 0; at: the position of the argument."""
    before, dim = call.before, call.argument(at, "dim", None)
    numbers = [dim] if isinstance(dim, int) else dim
    if not numbers or not isinstance(numbers, (tuple, list)):
        raise call.refusal(f"got dim={dim} of {shown(before)}, expected axes without the batch, as in dim=(2, 3)")
    axes, batch = sorted(call.axis(axis) + 1 for axis in numbers), batch_of(call.whole)
    if call.node.meta["value"].dim() < call.whole.meta["value"].dim():
        call.node.meta["batch"] = batch._replace(axis=batch.axis - sum(axis <= batch.axis for axis in axes))
    return axes


def _last(folder: Folder, call: Call, x: Pending, axes: Sequence[int]) -> Pending:
    """`x` as an image with the reduced axes in its last axis: (rest, 1, reduced)."""
    sample, reduced = call.before[1:], [axis - 1 for axis in axes]
    rest = [axis for axis in range(len(sample)) if axis not in reduced]
    y = folder.permuted(call, x, (*rest, *reduced))
    kept, gone = ([sample[axis] for axis in part] for part in (rest, reduced))
    return folder.reshaped(call, y, (*kept, *gone), (prod(kept), 1, prod(gone)))


def _window(call: Call, before: Shape, after: Shape, *, dilation: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """The fields of a pool. With `ceil_mode`, windows over the end need more padding there."""
    kernel = as_size(call, call.argument(1, "kernel_size", None), 1)
    stride = as_size(call, call.argument(2, "stride", None) or call.argument(1, "kernel_size", None), 1)
    padding: list[int] = []
    for axis, first in enumerate(as_size(call, call.argument(3, "padding", 0), 0)):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        needed = (after[axis + 2] - 1) * stride[axis] + span - before[axis + 2] - first
        padding += [first, max(first, needed)]
    return {"kernel": kernel, "stride": stride, "padding": tuple(padding), "dilation": dilation}
