"""Nets that hypothesis draws: any input, any operation, one or several outputs."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st
from packed_nets import Builder

from onebit.errors import FormatError
from onebit.packed import (
    AdaptiveAveragePool,
    Add,
    AveragePool,
    Clamp,
    Concat,
    Conv,
    ConvTranspose,
    Flatten,
    Hardtanh,
    MaxPool,
    Multiply,
    PackedNet,
    Pad,
    Permute,
    Prelu,
    Quantize,
    RealConv,
    RealDense,
    Relu,
    Repeat,
    Reshape,
    Sign,
    Slice,
)

_MOST = 3000  # elements of a value
_RANGES = [(0, 255), (-128, 127), (0, 15), (0, 3), (-8, 7), (-1, 1), (-3, 300), (-(2**16), 2**16)]
_SPECIAL = np.float32([0, -0.0, 1, -1, 1e-40, -1e-30, 3e5, 1e30])

Draw = Callable[[st.SearchStrategy[Any]], Any]


def _shape(draw: Draw, count: int, most: int = 4) -> tuple[int, ...]:
    """A shape with `count` elements."""
    shape = []
    for _ in range(draw(st.integers(1, most)) - 1):
        shape.append(draw(st.sampled_from([size for size in range(1, count + 1) if count % size == 0])))
        count //= shape[-1]
    return tuple(draw(st.permutations([*shape, count])))


def _any_value(b: Builder, draw: Draw) -> None:
    """An operation on values of every shape."""
    shape = b.values[b.last].shape
    channels, count = shape[0], prod(shape)
    alike = [name for name, value in b.values.items() if value.shape == shape]
    joinable = [name for name, value in b.values.items() if value.shape[1:] == shape[1:]]
    kind = draw(
        st.sampled_from(
            [
                *("relu", "hardtanh", "clamp", "affine", "prelu", "sign", "threshold", "add", "multiply", "concat"),
                *("move", "round", "round"),
            ]
        )
    )
    if kind == "clamp":
        low, high = sorted(draw(st.tuples(*[st.sampled_from([-2.0, -0.5, -0.0, 0.0, 1.0, 6.0])] * 2)))
        which = draw(st.sampled_from(["both", "low", "high"]))
        bounds = {"low": np.float32([low])} if which != "high" else {}
        b.add(Clamp, **bounds, **({"high": np.float32([high])} if which != "low" else {}))
    elif kind == "affine":
        b.affine(channels)
    elif kind == "prelu":
        b.add(Prelu, slope=b.real(channels))
    elif kind == "round":
        least, most = draw(st.sampled_from(_RANGES))
        exact = [name for name in alike if b.values[name].exact]
        if b.last not in exact or draw(st.integers(0, 4)) == 0:
            b.add(Quantize, least=least, most=most)
            return
        others = draw(st.lists(st.sampled_from(exact), max_size=2))  # residual sums, also of a value with itself
        b.requantize(*draw(st.permutations([b.last, *others])), least=least, most=most)
        node = b.nodes[-1]
        node.check_values(*(b.values[name] for name in node.inputs))
    elif kind == "sign":
        b.add(Sign, shift=b.real(channels) if draw(st.booleans()) else None)
    elif kind == "threshold":
        b.threshold(channels, most=draw(st.sampled_from([3, 300])))
    elif kind in ("add", "multiply"):
        b.add(Add if kind == "add" else Multiply, b.last, draw(st.sampled_from(alike)))
    elif kind == "concat":
        b.add(Concat, draw(st.sampled_from(joinable)), b.last)
    elif kind == "move":
        move = draw(st.sampled_from(["reshape", "permute", "repeat", "flatten"]))
        if move == "reshape":
            b.add(Reshape, shape=_shape(draw, count))
        elif move == "permute":
            b.add(Permute, axes=tuple(draw(st.permutations(range(len(shape))))))
        elif move == "repeat":
            b.add(Repeat, times=tuple(draw(st.integers(1, 3)) for _ in shape))
        else:
            b.add(Flatten)
    else:
        b.add(Relu if kind == "relu" else Hardtanh)


def _vector(b: Builder, draw: Draw) -> None:
    (size,) = b.values[b.last].shape
    outputs = draw(st.sampled_from([1, 5, 32, 40]))
    if draw(st.booleans()):
        b.add(RealDense, weight=b.real(outputs, size))
    else:
        b.dense(outputs)


def _image(b: Builder, draw: Draw) -> None:
    channels, height, width = b.values[b.last].shape

    def pair(most: int) -> tuple[int, int]:
        return draw(st.integers(1, most)), draw(st.integers(1, most))

    kernel = min(height, draw(st.integers(1, 3))), min(width, draw(st.integers(1, 3)))
    window = {"kernel": kernel, "stride": pair(2)}
    kind = draw(
        st.sampled_from(["conv", "depthwise", "grouped", "transposed", "max", "average", "adaptive", "slice", "pad"])
    )
    if kind in ("conv", "depthwise", "grouped", "transposed"):
        groups = channels
        if kind != "depthwise":
            groups = draw(st.sampled_from([1, *(g for g in (2, 3) if kind == "grouped" and channels % g == 0)]))
        outputs = groups * draw(st.sampled_from([1, 2, 3]))
        terms = channels // groups * prod(kernel)
        fields: dict[str, Any] = {**window, "groups": groups}
        if draw(st.booleans()):
            fields["padding"] = (1, 0, 1, 1)
        if kind == "transposed":
            b.add(ConvTranspose, **b.signs(outputs, terms, scale=draw(st.booleans())), **fields)
            return
        fields["padding_value"] = draw(st.integers(-1, 1))
        if draw(st.booleans()):
            b.add(RealConv, weight=b.real(outputs, terms), **fields)
        else:
            b.add(Conv, **b.signs(outputs, terms, scale=draw(st.booleans()), centre=draw(st.booleans())), **fields)
    elif kind in ("max", "average"):
        b.add(MaxPool if kind == "max" else AveragePool, **window)
    elif kind == "adaptive":
        b.add(AdaptiveAveragePool, size=(min(2, height), 1))
    elif kind == "slice":
        b.add(Slice, stop=(channels, height, width), step=(draw(st.integers(1, channels)), 1, 2))
    else:
        b.add(Pad, channels=(1, 0), padding=(0, 1, 1, 0), value=draw(st.integers(-1, 1)))


@st.composite
def nets(draw: Draw) -> PackedNet:
    shape = draw(
        st.sampled_from([(1,), (20,), (37,), (3, 16), (1, 33), (5, 8), (1, 6, 5), (4, 5, 5), (33, 2, 3), (2, 3, 4, 5)])
    )
    coding = draw(st.sampled_from(["float32", "values", "integer", "standardise"]))
    b = Builder(shape, seed=draw(st.integers(0, 99)), coding=coding)
    wanted = draw(st.integers(1, 9))
    for _ in range(3 * wanted):
        before = len(b.nodes), b.last, dict(b.values)
        rank = len(b.values[b.last].shape)
        # operations of vectors and images more often, because most values are neither
        steps = [_any_value] + [_vector] * (rank == 1) + [_image] * 2 * (rank == 3)
        try:
            draw(st.sampled_from(steps))(b, draw)
            suitable = prod(b.values[b.last].shape) <= _MOST
        except FormatError:  # a threshold of reals, sums beyond int32, …
            suitable = False
        if not suitable:
            del b.nodes[before[0] :]
            b.last, b.values = before[1:]
        if len(b.nodes) == wanted:
            break
    if not b.nodes:
        b.affine(shape[0])
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
