"""Integer nets that hypothesis draws: requantizations at the limits of what a file may hold, in small nets."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from drawn_nets import Draw
from hypothesis import strategies as st
from packed_nets import Builder

from onebit.errors import FormatError
from onebit.packed import (
    AveragePool,
    Concat,
    Conv,
    MaxPool,
    PackedNet,
    Pad,
    Quantize,
    Requantize,
    Slice,
)
from onebit.packed.nodes.rounding import EXACT_LIMIT

RANGES = [
    *((0, 255), (0, 15), (0, 3), (0, 1), (-128, 127), (-8, 7), (-2, 1), (-1, 1)),
    *((-200, 55), (0, 256), (-129, 127), (-3, 300), (0, 65536), (-65536, 1)),
]


def extreme(b: Builder, draw: Draw, *inputs: str) -> str:
    """A requantization with any shift, multipliers of either sign, and numbers up to those that a file may hold."""
    values = [b.values[name] for name in inputs or (b.last,)]
    channels, shift = values[0].shape[0], draw(st.sampled_from([0, 1, 7, 20, 31, 51, 52]))
    least, most = draw(st.sampled_from(RANGES))
    widest = EXACT_LIMIT - 1
    if draw(st.booleans()):  # so that some results are inside the range, and not all at its ends
        widest = int(min(widest, 2 * max(-least, most) * 2**shift))
    share = widest // (len(values) + 1)
    rows = []
    for x in values:
        limit = min(share // (x.bound or 1), 2**31 - 1)
        rows.append(b.rng.integers(-limit, limit, channels, endpoint=True))
        rows[-1][b.rng.random(channels) < 0.2] = draw(st.sampled_from([0, 1, -1, limit, -limit])) if limit else 0
    offset = b.rng.integers(-share, share, channels, endpoint=True)
    fields = {
        "multiplier": np.array(rows, np.int32),
        "offset": offset,
        "right_shift": shift,
        "least": least,
        "most": most,
    }
    return b.add(Requantize, *inputs, **fields)


def _some_requantize(b: Builder, draw: Draw, *inputs: str) -> str:
    if draw(st.booleans()):
        return extreme(b, draw, *inputs)
    least, most = draw(st.sampled_from(RANGES))
    return b.requantize(*inputs, least=least, most=most)


def _block(b: Builder, draw: Draw) -> None:
    """A product of the last value, and a requantization of it, often with values before it."""
    shape = b.values[b.last].shape
    shortcut, outputs = b.last, draw(st.sampled_from([1, 4, 33]))
    if len(shape) == 1:
        b.dense(draw(st.sampled_from([outputs, shape[0]])))
    else:
        groups = draw(st.sampled_from([1, shape[0]]))
        outputs = shape[0] if groups > 1 else draw(st.sampled_from([outputs, shape[0]]))
        window: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "groups": groups}
        window["padding_value"] = draw(st.integers(-1, 1))
        b.add(Conv, **b.signs(outputs, shape[0] // groups * 9), **window)
    made = b.values[b.last]
    alike = [name for name in (shortcut, b.last) if b.values[name].shape == made.shape]
    more = draw(st.lists(st.sampled_from(alike), max_size=2))
    _some_requantize(b, draw, b.last, *more)


def _rest(b: Builder, draw: Draw) -> None:
    """Something else that integers go through."""
    shape = b.values[b.last].shape
    kinds = ["threshold", "concat", "quantize", "again"] + ["max", "sums", "slice", "pad"] * (len(shape) == 3)
    kind = draw(st.sampled_from(kinds))
    if kind == "threshold":
        b.threshold(shape[0], most=200)
    elif kind == "concat":
        b.add(Concat, b.last, draw(st.sampled_from([name for name in b.values if b.values[name].shape == shape])))
    elif kind == "quantize":
        b.affine(shape[0])
        least, most = draw(st.sampled_from(RANGES))
        b.add(Quantize, least=least, most=most)
    elif kind == "again":
        _some_requantize(b, draw)
    elif kind == "slice":
        b.add(Slice, stop=(shape[0], *shape[1:]), step=(1, 2, 1))
    elif kind == "pad":
        b.add(Pad, channels=(1, 0), padding=(0, 1, 1, 0), value=draw(st.integers(-1, 1)))
    else:
        window = {"kernel": (2, 2), "padding": (1, 0, 0, 1)}
        b.add(MaxPool, **window) if kind == "max" else b.add(AveragePool, sums=1, **window)


@st.composite
def integer_nets(draw: Draw) -> PackedNet:
    """Nets of integers; the only real values are affine maps of them, which become integers at once."""
    shape = draw(st.sampled_from([(1,), (20,), (1, 5, 4), (3, 6, 5), (4, 3, 3)]))
    b = Builder(shape, seed=draw(st.integers(0, 99)), coding=draw(st.sampled_from(["values", "integer"])))
    _some_requantize(b, draw)
    with suppress(FormatError):  # sums beyond int32
        for _ in range(draw(st.integers(1, 4))):
            _block(b, draw)
            if draw(st.booleans()):
                _rest(b, draw)
    read = {name for node in b.nodes for name in node.inputs}
    return b.net(tuple(name for name in b.values if name not in read))
