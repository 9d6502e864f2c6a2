"""Operations that move elements: reshape, permute, expand, shuffles, upsampling, slices, concatenation, padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from onebit.common.torch_private import storage_address
from onebit.fold.arithmetic import affine, of_sample
from onebit.fold.call import Batch, Call, Shape, any_batch, any_dtype, batch_of, inverse, samples_of, shown
from onebit.fold.chain import Pending
from onebit.fold.folder import Folder
from onebit.packed import Concat, Pad, Slice, Take
from onebit.packed.nodes.node import MAX_SIZE

_PROBE = (2, 3, 5, 7, 11, 13, 17, 19)


@any_batch
@any_dtype
def same(folder: Folder, call: Call, x: Pending) -> Pending:
    return x


@any_batch
@any_dtype
def reshape(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    # recognized by its effect, because the many ways to flatten have different arguments
    value, made = call.source.meta["value"], call.node.meta["value"]
    if value.dtype != made.dtype:
        raise call.refusal("it reinterprets the bits as another dtype")
    axis, times = batch_of(call.node)
    before, after = tuple(value.shape), tuple(made.shape)
    if after == before:
        return x
    count, slower = before[axis] // times, prod(before[:axis])
    whole = (k for k, size in enumerate(after) if prod(after[:k]) == slower and size % count == 0)
    if (found := next(whole, None)) is None:
        raise call.refusal(f"it turns {before} into {after}, which tears the {count} samples of axis {axis} apart")
    call.node.meta["batch"] = Batch(found, after[found] // count)
    return folder.reshaped(call, x, *(shape[1:] for shape in call.shapes))


@any_batch
@any_dtype
def permute(folder: Folder, call: Call, x: Pending) -> Pending:
    batch = batch_of(call.node)
    sizes = _PROBE[: call.source.meta["value"].dim()]  # distinct sizes show where each axis goes
    made = call.on(torch.empty(sizes, device="meta"))
    axes = [sizes.index(size) for size in made.shape]
    call.node.meta["batch"] = Batch(axes.index(batch.axis), batch.times)
    kept = (batch.sample_axis(axis) for axis in axes if axis != batch.axis or batch.times > 1)
    return folder.permuted(call, x, tuple(kept))


@any_batch
@any_dtype
def expand(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    return folder.repeated(call, x, *call.shapes)


@any_dtype
def take(folder: Folder, call: Call, x: Pending) -> Pending:
    """Elements chosen axis by axis, such as a border that reflects: the indices are read off a probe."""
    before = call.before
    sample, size = before[1:], prod(before[1:])
    probe = torch.arange(before[0] * size, dtype=torch.float64).view(before)
    made = (call.on if call.module is None else call.module)(probe).numpy()
    refusal = call.refusal(f"it turns {shown(before)} into {shown(made.shape)}, expected a choice along each axis")
    if made.ndim != len(before) or len(made) != before[0] or not made.size:
        raise refusal
    at = np.unravel_index(made[0].astype(np.int64) % size, sample)
    chosen = [np.moveaxis(where, axis, 0).reshape(where.shape[axis], -1)[:, 0] for axis, where in enumerate(at)]
    expected = np.arange(before[0] * size).reshape(before)
    for axis, indices in enumerate(chosen, 1):
        expected = expected.take(indices, axis)
    if not np.array_equal(made, expected):
        raise refusal
    for axis, indices in enumerate(chosen):
        x, sample = taken(folder, call, x, sample, axis, indices)
    return x


def taken(
    folder: Folder, call: Call, x: Pending, sample: Shape, axis: int, indices: np.ndarray
) -> tuple[Pending, Shape]:
    """The value at these indices of an axis, and its shape."""
    if np.array_equal(indices, np.arange(sample[axis])):
        return x, sample
    made = (*sample[:axis], len(indices), *sample[axis + 1 :])
    image, at = sample, axis
    if len(sample) != 3:
        image, at = (prod(sample[:axis]), sample[axis], prod(sample[axis + 1 :])), 1
    x = folder.reshaped(call, x, sample, image)
    x = folder.moved(call, x, Take, mixes=at == 0, axis=at, indices=indices.astype(np.int32))
    return folder.reshaped(call, x, (*image[:at], len(indices), *image[at + 1 :]), made), made


@any_dtype
def channel_shuffle(folder: Folder, call: Call, x: Pending) -> Pending:
    groups = call.argument(1, "groups", None)
    channels, *rest = call.before[1:]
    return _reordered(folder, call, x, (groups, channels // groups, *rest), (1, 0, *range(2, len(rest) + 2)))


@any_dtype
def pixel_shuffle(folder: Folder, call: Call, x: Pending) -> Pending:
    by, (channels, height, width) = call.argument(1, "upscale_factor", None), call.before[1:]
    return _reordered(folder, call, x, (channels // by**2, by, by, height, width), (0, 3, 1, 4, 2))


@any_dtype
def pixel_unshuffle(folder: Folder, call: Call, x: Pending) -> Pending:
    by, (channels, height, width) = call.argument(1, "downscale_factor", None), call.before[1:]
    return _reordered(folder, call, x, (channels, height // by, by, width // by, by), (0, 2, 4, 1, 3))


def _reordered(folder: Folder, call: Call, x: Pending, split: Shape, axes: Shape) -> Pending:
    """A reshape to `split`, a permutation of the axes, and a reshape to the shape of the result."""
    before, after = call.shapes
    x = folder.permuted(call, folder.reshaped(call, x, before[1:], split), axes)
    return folder.reshaped(call, x, tuple(split[axis] for axis in axes), after[1:])


@any_batch
@any_dtype
def concat(folder: Folder, call: Call, *values: Pending, new_axis: bool = False) -> Pending:
    """Concatenation along an axis, which is moved to the channels for a `Concat` and back; constants are a border."""
    parts, (before, _) = call.argument(0, "tensors", ()), call.shapes
    made = call.node.meta["value"]
    axis, batch = call.argument(1, "dim", 0) % made.dim(), batch_of(call.node)
    if new_axis:
        batch = call.node.meta["batch"] = batch._replace(axis=batch.axis + (axis <= batch.axis))
    if axis == batch.axis or not isinstance(parts, (tuple, list)):
        raise call.refusal(f"got {tuple(made.shape)}, expected values along an axis other than the batch")
    if len(parts) == 1 and not new_axis:
        return values[0]
    axis, rank = batch.sample_axis(axis), len(samples_of(call.node)) - 1
    order = (axis, *(k for k in range(rank) if k != axis))
    if not all(isinstance(part, fx.Node) and part.op != "get_attr" for part in parts):
        return _beside_constants(folder, call, values, [*parts], axis)
    sources = []
    for part in parts:
        x = folder.pending[part]
        x = folder.reshaped(call, x, before[1:], (1, *before[1:])) if new_axis else folder.permuted(call, x, order)
        sources.append(folder.write(x))
    joined = Pending(folder.emit(Concat, call.name, *sources) if len(sources) > 1 else sources[0])
    return folder.permuted(call, joined, inverse(order))


def _beside_constants(folder: Folder, call: Call, values: Sequence[Pending], parts: list[Any], axis: int) -> Pending:
    """One value among constants, such as a class token before the others: a border of zeros, then a sum."""
    at = [isinstance(part, fx.Node) and part.op != "get_attr" for part in parts]
    if at.count(True) != 1:
        raise call.refusal("expected values of the net, or one value among constants")
    (x,), own, dim = values, at.index(True), call.argument(1, "dim", 0)
    tensors = [part.meta["value"] if isinstance(part, fx.Node) else part for part in parts]
    sizes = [tensor.shape[dim] for tensor in tensors]
    tensors[own] = torch.zeros(tensors[own].shape)
    sample = call.before[1:]
    others = tuple(k for k in range(len(sample)) if k != axis)
    order, rest = (*others, axis), tuple(sample[k] for k in others)
    image = folder.reshaped(call, folder.permuted(call, x, order), (*rest, sizes[own]), (prod(rest), 1, sizes[own]))
    border = (0, 0, sum(sizes[:own]), sum(sizes[own + 1 :]))
    wide = folder.emit(Pad, call.name, folder.write(image), padding=border)
    y = folder.reshaped(call, Pending(wide), folder.values[wide].shape, (*rest, sum(sizes)))
    y = folder.permuted(call, y, inverse(order))
    border_numbers = of_sample(call, torch.cat(tensors, dim), call.node.meta["value"].shape)
    return affine(folder, call, y, border_numbers, torch.add)


stack = any_batch(any_dtype(partial(concat, new_axis=True)))


@any_dtype
def pad(folder: Folder, call: Call, x: Pending) -> Pending:
    before, after = call.shapes
    mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value", None) or 0
    sizes = call.argument(1, "pad" if call.module is None else "padding", ())
    ends = [*zip(sizes[-2::-2], sizes[::-2], strict=True)]  # torch names the last axis first
    batch, *ends = ([(0, 0)] * 4 + ends)[-len(before) :]
    if mode in ("reflect", "replicate", "circular"):
        return take(folder, call, x)
    if mode != "constant" or value not in (-1, 0, 1) or len(before) not in (3, 4) or batch != (0, 0):
        raise call.refusal(
            f"got mode {mode!r} and value {value}, expected an image padded with the constant 0, 1 or -1"
        )
    image = before[1:]
    if len(image) == 2:  # a signal
        ends, image = [ends[0], (0, 0), ends[1]], (image[0], 1, image[1])
    source = folder.write(folder.reshaped(call, x, before[1:], image))
    channels, rows, columns = ends
    padding = *rows, *columns
    if any((*channels, *padding)):
        source = folder.emit(Pad, call.name, source, channels=channels, padding=padding, value=int(value))
    return folder.reshaped(call, Pending(source), folder.values[source].shape, after[1:])


@any_batch
@any_dtype
def select(folder: Folder, call: Call, x: Pending) -> Pending:
    """Slices, integers, and parts of a split: the range of each axis is read off the strides of a probe."""
    before, batch, ranges = tuple(call.whole.meta["value"].shape), batch_of(call.node), []
    for axis, size in enumerate(before):
        probe = torch.empty(size)
        made = call.on(probe.view(*[size if k == axis else 1 for k in range(len(before))]).expand(before))
        moving = [k for k, count in enumerate(made.shape) if count > 1 and made.stride(k)]
        if len(moving) > 1 or storage_address(made) != storage_address(probe):
            return take(folder, call, x)  # a list of indices
        first, (count, step) = made.storage_offset(), (1, 1)
        if moving:
            count, step = made.shape[moving[0]], made.stride(moving[0])
        ranges.append(range(first, min(size, first + count * step), step) if made.numel() else range(0))
        if axis == batch.axis:
            if len(ranges[-1]) != size:
                raise call.refusal(f"it takes a part of the batch of {before}")
            call.node.meta["batch"] = Batch(moving[0], batch.times)
    ranges[batch.axis : batch.axis + 1] = [range(batch.times)] * (batch.times > 1)
    y = picked(folder, call, x, call.before[1:], ranges)
    return folder.reshaped(call, y, tuple(map(len, ranges)), call.shapes[1][1:])


def picked(folder: Folder, call: Call, x: Pending, sample: Shape, ranges: Sequence[range]) -> Pending:
    """The elements of `x`, of shape `sample`, at these indices of each axis."""
    if all(len(r) == size for r, size in zip(ranges, sample, strict=True)):
        return x
    if len(sample) == 3:
        return _sliced(folder, call, x, ranges)
    for axis, r in enumerate(ranges):  # one axis at a time, as the middle one of three
        if len(r) == sample[axis]:
            continue
        around = (prod(sample[:axis]), sample[axis], prod(sample[axis + 1 :]))
        x = folder.reshaped(call, x, sample, around)
        x = _sliced(folder, call, x, [range(around[0]), r, range(around[2])])
        made, sample = (around[0], len(r), around[2]), (*sample[:axis], len(r), *sample[axis + 1 :])
        x = folder.reshaped(call, x, made, sample)
    return x


def _sliced(folder: Folder, call: Call, x: Pending, ranges: Sequence[range]) -> Pending:
    """The pixels of an image at (channels, rows, columns)."""
    start, stop = tuple(r.start for r in ranges), tuple(r.stop for r in ranges)
    step = tuple(min(r.step, MAX_SIZE) for r in ranges)
    return Pending(folder.emit(Slice, call.name, folder.write(x), start=start, stop=stop, step=step))
