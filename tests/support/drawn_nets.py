"""Nets that hypothesis draws: any input, any operation, one or several outputs."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from onebit.errors import FormatError
from onebit.packed import PackedNet, Value, nodes as op
from onebit.packed.nodes.rounding import EXACT_LIMIT
from support.packed_nets import Builder

_MAX_VALUES = 3000  # elements of a value
_RANGES = [
    *((0, 255), (0, 15), (0, 3), (0, 1), (-128, 127), (-8, 7), (-2, 1), (-1, 1)),
    *((-200, 55), (0, 256), (-129, 127), (-3, 300), (0, 2**16), (-(2**16), 1), (-(2**16), 2**16)),
]
_INTEGERS = "relu", "hardtanh", "sign", "threshold", "add", "concat", "move", "round", "round", "through reals"
_REALS = "clamp", "affine", "prelu", "multiply", "levels", "activation"
_ACTIVATIONS = [
    kind for kind in op.OPS.values() if issubclass(kind, op.Activation) and kind not in (op.Sqrt, op.Reciprocal)
]
_SPECIAL = np.float32([0, -0.0, 1, -1, 1e-40, -1e-30, 3e5, 1e30])

Draw = Callable[[st.SearchStrategy[Any]], Any]


def _shape(draw: Draw, count: int, most: int = 4) -> tuple[int, ...]:
    """A shape with `count` elements."""
    shape = []
    for _ in range(draw(st.integers(1, most)) - 1):
        shape.append(draw(st.sampled_from([size for size in range(1, count + 1) if count % size == 0])))
        count //= shape[-1]
    return tuple(draw(st.permutations([*shape, count])))


def _round(b: Builder, draw: Draw) -> None:
    """Round the last value, and often others, to integers of few bits."""
    least, most = draw(st.sampled_from(_RANGES))
    alike = [name for name, value in b.values.items() if value.shape == b.values[b.last].shape and value.exact]
    if b.last not in alike or draw(st.integers(0, 4)) == 0:
        b.add(op.Quantize, least=least, most=most)
        return
    others = draw(st.lists(st.sampled_from(alike), max_size=2))  # residual sums, also of a value with itself
    inputs = draw(st.permutations([b.last, *others]))
    values = [b.values[name] for name in inputs]
    if draw(st.booleans()):
        b.requantize(*inputs, least=least, most=most)
    else:
        b.add(op.Requantize, *inputs, least=least, most=most, **_extreme(b, draw, values, max(-least, most)))
    b.nodes[-1].check_values(*values)


def _extreme(b: Builder, draw: Draw, values: list[Value], largest: int) -> dict[str, Any]:
    """Any shift, multipliers of either sign, and numbers up to the limits of a file."""
    channels, shift = values[0].shape[0], draw(st.sampled_from([0, 1, 7, 20, 31, 51, 52]))
    widest = EXACT_LIMIT - 1
    if draw(st.booleans()):  # so that some results are inside the range, and not all at its ends
        widest = min(widest, 2 * largest * 2**shift)
    share = widest // (len(values) + 1)
    rows = []
    for x in values:
        limit = min(share // (x.bound or 1), 2**31 - 1)
        rows.append(b.rng.integers(-limit, limit, channels, endpoint=True))
        rows[-1][b.rng.random(channels) < 0.2] = draw(st.sampled_from([0, 1, -1, limit, -limit])) if limit else 0
    offset = b.rng.integers(-share, share, channels, endpoint=True)
    return {"multiplier": np.array(rows, np.int32), "offset": offset, "right_shift": shift}


def _any_value(b: Builder, draw: Draw, *, integers: bool) -> None:
    """An operation on values of every shape."""
    shape = b.values[b.last].shape
    channels, count = shape[0], prod(shape)
    known = {name: value for name, value in b.values.items() if value.exact or not integers}
    alike = [name for name, value in known.items() if value.shape == shape]
    joinable = [name for name, value in known.items() if value.shape[1:] == shape[1:]]
    kind = draw(st.sampled_from([*_INTEGERS, *(() if integers else _REALS)]))
    if kind == "clamp":
        low, high = sorted(draw(st.tuples(*[st.sampled_from([-2.0, -0.5, -0.0, 0.0, 1.0, 6.0])] * 2)))
        which = draw(st.sampled_from(["both", "low", "high"]))
        bounds = {"low": np.float32([low])} if which != "high" else {}
        b.add(op.Clamp, **bounds, **({"high": np.float32([high])} if which != "low" else {}))
    elif kind == "affine":
        fields = draw(st.lists(st.sampled_from(["scale", "shift"]), unique=True))
        b.add(op.Affine, **{name: b.real(channels) for name in fields})
    elif kind == "levels":
        if b.values[b.last].kind != "sign":
            b.add(op.Sign)
        b.levels(*draw(st.tuples(*[st.sampled_from([-2.7, -1.0, 0.0, 0.1, 1.3, 3e5])] * 2)))
    elif kind == "activation":
        b.add(draw(st.sampled_from(_ACTIVATIONS)))
    elif kind == "prelu":
        b.add(op.Prelu, slope=b.real(channels))
    elif kind == "round":
        _round(b, draw)
    elif kind == "through reals":
        b.affine(channels)
        _round(b, draw)
    elif kind == "sign":
        b.add(op.Sign, shift=b.real(channels) if draw(st.booleans()) else None)
    elif kind == "threshold":
        b.threshold(channels, most=draw(st.sampled_from([3, 300])))
    elif kind in ("add", "multiply"):
        b.add(op.Add if kind == "add" else op.Multiply, b.last, draw(st.sampled_from(alike)))
    elif kind == "concat":
        b.add(op.Concat, draw(st.sampled_from(joinable)), b.last)
    elif kind == "move":
        move = draw(st.sampled_from(["reshape", "permute", "repeat", "flatten"]))
        if move == "reshape":
            b.add(op.Reshape, shape=_shape(draw, count))
        elif move == "permute":
            b.add(op.Permute, axes=tuple(draw(st.permutations(range(len(shape))))))
        elif move == "repeat":
            b.add(op.Repeat, times=tuple(draw(st.integers(1, 3)) for _ in shape))
        else:
            b.add(op.Flatten)
    else:
        b.add(op.Relu if kind == "relu" else op.Hardtanh)


def _vector(b: Builder, draw: Draw, *, integers: bool) -> None:
    (size,) = b.values[b.last].shape
    outputs = draw(st.sampled_from([1, 5, 32, 33, 40, size]))
    if not integers and draw(st.booleans()):
        b.add(op.RealDense, weight=b.real(outputs, size))
    else:
        b.dense(outputs)


def _image(b: Builder, draw: Draw, *, integers: bool) -> None:
    channels, height, width = b.values[b.last].shape

    def numbers(least: int, most: int, count: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(count))

    kernel = tuple(min(size, most) for size, most in zip((height, width), numbers(1, 3, 2), strict=True))
    window: dict[str, Any] = {"kernel": kernel, "stride": numbers(1, 2, 2)}
    kinds = ["conv", "conv", "depthwise", "grouped", "transposed", "max", "average", "slice", "take", "pad"]
    kind = draw(st.sampled_from([*kinds, *([] if integers else ["adaptive"])]))
    if kind in ("conv", "depthwise", "grouped", "transposed"):
        groups = channels
        if kind != "depthwise":
            groups = draw(st.sampled_from([1, *(g for g in (2, 3) if kind == "grouped" and channels % g == 0)]))
        outputs = draw(st.sampled_from([groups, 2 * groups, 3 * groups, 8 * groups, 16 * groups, channels]))
        terms = channels // groups * prod(kernel)
        fields = {**window, "groups": groups, "dilation": numbers(1, 2, 2)}
        fields["padding"] = draw(st.sampled_from([(0, 0, 0, 0), (1, 0, 1, 1), (1, 1, 1, 1), numbers(0, 2, 4)]))
        more = {name: not integers and draw(st.booleans()) for name in ("scale", "centre")}
        if kind == "transposed":
            b.add(op.ConvTranspose, **b.signs(outputs, terms, scale=more["scale"]), **fields)
            return
        fields["padding_value"] = draw(st.integers(-1, 1))
        if not integers and draw(st.booleans()):
            b.add(op.RealConv, weight=b.real(outputs, terms), **fields)
        else:
            b.add(op.Conv, **b.signs(outputs, terms, **more), **fields)
    elif kind == "max":
        b.add(op.MaxPool, **window, padding=draw(st.sampled_from([(0, 0, 0, 0), (1, 0, 0, 1)])))
    elif kind == "average":
        padding = draw(st.sampled_from([(0, 0, 0, 0), (1, 0, 0, 1)]))
        b.add(op.AveragePool, **window, padding=padding, sums=1 if integers else draw(st.integers(0, 1)))
    elif kind == "adaptive":
        b.add(op.AdaptiveAveragePool, size=(min(2, height), 1))
    elif kind == "take":
        axis = draw(st.integers(0, 2))
        places = st.integers(0, (channels, height, width)[axis] - 1)
        b.add(op.Take, axis=axis, indices=np.int32(draw(st.lists(places, min_size=1, max_size=9))))
    elif kind == "slice":
        b.add(op.Slice, stop=(channels, height, width), step=(draw(st.integers(1, channels)), 1, 2))
    else:
        b.add(op.Pad, channels=(1, 0), padding=(0, 1, 1, 0), value=draw(st.integers(-1, 1)))


@st.composite
def nets(draw: Draw, *, integers: bool = False) -> PackedNet:
    """Any net; with `integers` one whose only real values are affine maps of integers, which are rounded at once."""
    shapes = [(1,), (20,), (37,), (1, 6, 5), (4, 5, 5), (8, 7, 6), (33, 2, 3)]
    codings = ["values", "integer"]
    if not integers:
        shapes += [(3, 16), (1, 33), (5, 8), (2, 3, 4, 5)]
        codings += ["float32", "standardise"]
    b = Builder(draw(st.sampled_from(shapes)), seed=draw(st.integers(0, 99)), coding=draw(st.sampled_from(codings)))
    wanted = draw(st.integers(4, 12) if integers else st.integers(1, 9))
    for _ in range(3 * wanted):
        before = len(b.nodes), b.last, dict(b.values)
        rank = len(b.values[b.last].shape)
        # operations of vectors and images more often, because most values are neither
        more = 2 if integers else 1
        steps: list[Any] = [_any_value] + more * ([_vector] * (rank == 1) + [_image] * 2 * (rank == 3))
        try:
            draw(st.sampled_from(steps))(b, draw, integers=integers)
            if integers and draw(st.integers(0, 3)):
                _round(b, draw)
            suitable = prod(b.values[b.last].shape) <= _MAX_VALUES
        except FormatError:  # a threshold of reals, sums beyond int32, …
            suitable = False
        if not suitable:
            del b.nodes[before[0] :]
            b.last, b.values = before[1:]
        if len(b.nodes) >= wanted:
            break
    if not b.nodes:
        b.add(op.Relu)
    read = {name for node in b.nodes for name in node.inputs}
    assert read | {b.last} >= set(b.values)
    made = [node.output for node in b.nodes]
    more = draw(st.lists(st.sampled_from(made), max_size=2))
    if not more:
        return b.net()
    names = [*more, b.last]
    return b.net(tuple(names) if draw(st.booleans()) else {f"head {k}": name for k, name in enumerate(names)})


@st.composite
def batches_of(draw: Draw, net: PackedNet, most: int = 5) -> np.ndarray:
    """Noise of any magnitude with zeros of both signs, or bytes; each sample has its own grid."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    size = draw(st.integers(1, most)), *net.input.shape
    if net.input.dtype == "uint8":
        return rng.integers(0, draw(st.sampled_from([2, 256])), size, dtype=np.uint8)
    magnitude = np.ldexp(np.float32(1), rng.integers(-30, 30, (len(range(size[0])), *[1] * (len(size) - 1))))
    batch = rng.standard_normal(size).astype(np.float32) * magnitude.astype(np.float32)
    special = rng.random(size) < draw(st.sampled_from([0, 0.2, 0.9]))
    batch[special] = rng.choice(_SPECIAL[: draw(st.integers(1, len(_SPECIAL)))], int(special.sum()))
    return batch
