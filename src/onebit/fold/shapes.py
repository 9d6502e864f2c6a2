"""Signals as images of height 1, and axes as channels."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from onebit.fold.call import Call, Operation, Shape, inverse, shown
from onebit.fold.chain import Pending
from onebit.fold.folder import Folder


def is_signal(call: Call) -> bool:
    """Whether an operation reads signals (N, C, L), by the name of its layer or function."""
    bases = type(call.module).__mro__ if call.module is not None else (call.node.target,)
    return any(getattr(base, "__name__", "").endswith("1d") for base in bases)


def as_image(folder: Folder, call: Call, x: Pending) -> tuple[Pending, Shape, Shape]:
    """The first input as an image (C, H, W), and the shapes (N, C, H, W) of it and of the output."""
    before, after = call.shapes
    signal = is_signal(call)
    if len(before) != 4 - signal:
        raise call.refusal(f"got {shown(before)}, expected {'(N, C, L)' if signal else '(N, C, H, W)'}")
    if not signal:
        return x, before, after
    wide, out = (*before[:2], 1, before[2]), (*after[:2], 1, after[2])
    return folder.reshaped(call, x, before[1:], wide[1:]), wide, out


def from_image(folder: Folder, call: Call, y: Pending) -> Pending:
    """The output of an operation on signals, from its image of height 1."""
    _, after = call.shapes
    return folder.reshaped(call, y, (after[1], 1, after[2]), after[1:]) if is_signal(call) else y


def channels_first(folder: Folder, call: Call, x: Pending, sample: Shape, axes: Shape) -> Pending:
    """`x`, of shape `sample`, with these axes as one axis of channels, before the others."""
    order, moved, merged = _channels(sample, axes)
    return folder.reshaped(call, folder.permuted(call, x, order), moved, merged)


def channels_back(folder: Folder, call: Call, y: Pending, sample: Shape, axes: Shape) -> Pending:
    """The inverse of `channels_first`."""
    order, moved, merged = _channels(sample, axes)
    return folder.permuted(call, folder.reshaped(call, y, merged, moved), inverse(order))


def _channels(sample: Shape, axes: Shape) -> tuple[Shape, Shape, Shape]:
    """The order of the axes, the shape in this order, and the shape with `axes` as one."""
    others = tuple(axis for axis in range(len(sample)) if axis not in axes)
    first, rest = (tuple(sample[axis] for axis in part) for part in (axes, others))
    return (*axes, *others), (*first, *rest), (prod(first), *rest)


def on_images(fold: Callable[..., Pending]) -> Operation:
    """An operation on signals or images; `fold` takes an image and the shapes (N, C, H, W) before and after."""

    def folded(folder: Folder, call: Call, x: Pending) -> Pending:
        x, before, after = as_image(folder, call, x)
        return from_image(folder, call, fold(folder, call, x, before, after))

    folded.any_dtype = getattr(fold, "any_dtype", False)  # type: ignore[attr-defined]
    return folded


def as_size(call: Call, numbers: Any, fill: int) -> tuple[int, int]:
    """A number, or one per axis, as (height, width); a signal has the height `fill`."""
    first, last = (numbers, numbers) if isinstance(numbers, int) else (numbers[0], numbers[-1])
    return (fill, int(last)) if is_signal(call) else (int(first), int(last))
