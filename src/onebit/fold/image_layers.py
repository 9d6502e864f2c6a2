"""Operations on images: pooling, residual sums, shortcuts, padding, reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import fx

from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Call, Folder
from onebit.packed import AdaptiveAveragePool, Add, AveragePool, Concat, Flatten, MaxPool, Pad, Slice
from onebit.packed.nodes import MOST_SIZE


def reshape(folder: Folder, call: Call, x: Pending) -> Pending:
    # recognized by its effect, because the many ways to flatten have different arguments
    before, after = call.shapes
    if after == before or (len(after) == 3 and (*after, 1) == before):  # the first of two squeezes that flatten
        return x
    if after != (before[0], prod(before[1:])):
        raise call.refusal(f"it turns {_shape(before)} into {_shape(after)}, expected (N, {prod(before[1:])})")
    return folder.moved(call, x, Flatten)


def max_pool(folder: Folder, call: Call, x: Pending) -> Pending:
    if call.argument(6, "return_indices", False):
        raise call.refusal("it returns indices too; use return_indices=False")
    fields = _window(call, dilation=_pair(call.argument(4, "dilation", 1)))
    if x.ops and folder.values[x.base].exact and all(op.grows for op in x.ops):
        return Pending(folder.emit(MaxPool, call.name, x.base, **fields), x.ops)  # scales stay deferred, on integers
    return folder.moved(call, x, MaxPool, **fields)


def average_pool(folder: Folder, call: Call, x: Pending) -> Pending:
    if call.argument(6, "divisor_override", None) is not None:
        raise call.refusal("it does not divide by the number of pixels; use divisor_override=None")
    before = call.shapes[0][1:]
    fields, stated = _window(call), _pair(call.argument(3, "padding", 0))
    if any(stated) and call.argument(5, "count_include_pad", True):
        if fields["padding"][1::2] != stated:
            raise call.refusal("its last windows count less padding than the others; use ceil_mode=False")
        fields["count_padding"] = 1
    del fields["dilation"]
    if fields["kernel"] == (1, 1) and not any(fields["padding"]):
        strides = (1, *fields["stride"])
        return _picked(folder, call, x, [range(0, size, by) for size, by in zip(before, strides, strict=True)])
    whole = not any(fields["padding"])
    if whole and not x.ops and folder.values[x.base].exact:  # a sign that needs the sums of integers may follow
        pixels = prod(fields["kernel"])
        return x.then(FoldedOp(call.name, lambda sums: sums / pixels, kind=AveragePool, fields=fields))
    return Pending(folder.emit(AveragePool, call.name, folder.write(x), **fields))


def adaptive_average_pool(folder: Folder, call: Call, x: Pending) -> Pending:
    _, after = call.shapes
    return Pending(folder.emit(AdaptiveAveragePool, call.name, folder.write(x), size=after[2:]))


def mean(folder: Folder, call: Call, x: Pending) -> Pending:
    before, after = call.shapes
    axes = call.argument(1, "dim", None)
    if len(before) != 4 or not isinstance(axes, (tuple, list)) or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise call.refusal(f"got dim={axes} of {_shape(before)}, expected the mean over height and width: dim=(2, 3)")
    made = folder.emit(AdaptiveAveragePool, call.name, folder.write(x), size=(1, 1))
    return Pending(made if len(after) == 4 else folder.emit(Flatten, call.name, made))


def add(folder: Folder, call: Call, *values: Pending) -> Pending:
    assert call.node is not None
    terms = call.node.args
    if len(terms) != 2 or not all(isinstance(term, fx.Node) for term in terms) or call.node.kwargs.get("alpha", 1) != 1:
        raise call.refusal("expected the sum of two values of the net; put a constant into a bias or a BatchNorm")
    return Pending(folder.emit(Add, call.name, *_written(folder, call, terms, values)))


def concat(folder: Folder, call: Call, *values: Pending) -> Pending:
    assert call.node is not None
    parts = call.argument(0, "tensors", ())
    axis, axes = call.argument(1, "dim", 0), len(call.shapes[1])
    if axis % axes != 1:
        raise call.refusal(f"got dim={axis}, expected the channels: dim=1")
    if len(parts) == 1:
        return values[0]
    return Pending(folder.emit(Concat, call.name, *_written(folder, call, parts, values)))


def _written(folder: Folder, call: Call, parts: Sequence[Any], values: Sequence[Pending]) -> list[str]:
    """The packed value of each part; `values` has no duplicates, `parts` may."""
    assert call.node is not None
    by_node = dict(zip(call.node.all_input_nodes, values, strict=True))
    return [folder.write(by_node[part]) for part in parts]


def pad(folder: Folder, call: Call, x: Pending) -> Pending:
    before, _ = call.shapes
    if call.module is None:
        mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value", None) or 0
        sizes = list(call.argument(1, "pad", ()))
    else:
        mode, value, sizes = "constant", getattr(call.module, "value", 0), list(call.module.padding)
    sizes += [0] * (8 - len(sizes))
    if mode != "constant" or value not in (-1, 0, 1) or len(before) != 4 or any(sizes[6:]):
        raise call.refusal(
            f"got mode {mode!r} and value {value}, expected an image padded with the constant 0, 1 or -1"
        )
    left, right, top, bottom, first, last = sizes[:6]  # torch names the last axis first
    source = folder.write(x)
    if min(sizes) < 0:  # negative padding crops
        start = [max(0, -n) for n in (first, top, left)]
        ends = (last, bottom, right)
        stop = [size - max(0, -n) for size, n in zip(before[1:], ends, strict=True)]
        source = folder.emit(Slice, call.name, source, start=tuple(start), stop=tuple(stop))
    if max(sizes) <= 0:
        return Pending(source)
    left, right, top, bottom, first, last = (max(0, n) for n in sizes[:6])
    fields: dict[str, Any] = {"channels": (first, last), "padding": (top, bottom, left, right), "value": int(value)}
    return Pending(folder.emit(Pad, call.name, source, **fields))


def select(folder: Folder, call: Call, x: Pending) -> Pending:
    assert call.node is not None
    before, after = call.shapes
    index: Any = call.node.args[1]
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is Ellipsis for part in parts):
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(before) - len(parts) + 1)
    parts += [slice(None)] * (len(before) - len(parts))
    if len(before) != 4 or not all(isinstance(part, slice) for part in parts) or after[0] != before[0]:
        raise call.refusal("expected slices of an image, as in x[:, :, ::2, ::2]")
    ranges = [range(*part.indices(size)) for part, size in zip(parts[1:], before[1:], strict=True)]
    return x if after == before else _picked(folder, call, x, ranges)


def _picked(folder: Folder, call: Call, x: Pending, ranges: Sequence[range]) -> Pending:
    """The pixels of an image at (channels, rows, columns)."""
    start, stop = tuple(r.start for r in ranges), tuple(r.stop for r in ranges)
    step = tuple(min(r.step, MOST_SIZE) for r in ranges)
    return Pending(folder.emit(Slice, call.name, folder.write(x), start=start, stop=stop, step=step))


def _window(call: Call, *, dilation: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """The fields of a pool. With `ceil_mode`, windows over the end need more padding there."""
    before, after = call.shapes
    kernel = _pair(call.argument(1, "kernel_size", None))
    stride = _pair(call.argument(2, "stride", None) or kernel)
    padding: list[int] = []
    for axis, first in enumerate(_pair(call.argument(3, "padding", 0))):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        needed = (after[axis + 2] - 1) * stride[axis] + span - before[axis + 2] - first
        padding += [first, max(first, needed)]
    return {"kernel": kernel, "stride": stride, "padding": tuple(padding), "dilation": dilation}


def _pair(numbers: Any) -> tuple[int, int]:
    first, last = (numbers, numbers) if isinstance(numbers, int) else (numbers[0], numbers[-1])
    return int(first), int(last)


def _shape(size: Sequence[int]) -> str:
    return f"(N, {', '.join(str(axis) for axis in size[1:])})"
