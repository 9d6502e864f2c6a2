"""Integer nets with extreme ranges, shifts, multipliers and windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.packed import PackedNet, nodes as op
from onebit.packed.bits import pack_signs
from support.packed_nets import Builder

RANGES = ((0, 255), (-128, 127), (0, 15), (-8, 7), (-1, 1), (0, 256), (-129, 1), (-(2**16), 2**16), (0, 2**16))


def ranges_net() -> PackedNet:
    """Sums of one channel in every range: shifts of 0 and 52, multipliers of either sign and at their limits."""
    b = Builder((1, 4, 5), coding="values")
    sums = b.add(op.Conv, **b.signs(1, 9), kernel=(3, 3), padding=(1, 1, 1, 1))
    most = 2**52 - 1
    fields: list[dict[str, Any]] = [
        {"multiplier": [3], "offset": -5, "shift": 0},
        {"multiplier": [-1], "offset": -1, "shift": 1},
        {"multiplier": [2**31 - 1], "offset": -(2**30), "shift": 34},
        {"multiplier": [-(2**31)], "offset": 2**43, "shift": 35},
        {"multiplier": [1], "offset": 2**52 - 2296, "shift": 52},
        {"multiplier": [1], "offset": 2296 - 2**52, "shift": 52},
        {"multiplier": [0], "offset": most, "shift": 36},
        {"multiplier": [0], "offset": -most, "shift": 36},
    ]
    made = []
    for k, (least, greatest) in enumerate(RANGES):
        for given in fields[k % 2 :: 2]:
            multiplier, offset = np.int32([given["multiplier"]]), np.int64([given["offset"]])
            ends = {"least": least, "most": greatest, "right_shift": given["shift"]}
            made.append(b.add(op.Requantize, sums, multiplier=multiplier, offset=offset, **ends))
    b.add(op.Concat, *made)
    return b.net((b.last, made[0]))


def sums_net() -> PackedNet:
    """Rounded sums of one to four values, also of the same value, of values that others read, and of views."""
    b = Builder((3, 6, 7), coding="integer")
    x = b.requantize(least=-128, most=127)
    y = b.requantize("input", x, most=255)
    z = b.requantize(x, x)
    w = b.requantize(x, y, z)
    geometry = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    one = b.add(op.Conv, w, **b.signs(3, 27), **geometry)
    two = b.add(op.Conv, y, **b.signs(3, 27), **geometry)
    b.requantize(z, one, two, w, least=-7)
    shortcut = b.last
    b.add(op.Conv, **b.signs(3, 27), **geometry)
    b.requantize()
    b.add(op.Conv, **b.signs(3, 27), **geometry)
    summed = b.requantize(shortcut, b.last)  # takes the memory of its shortcut
    turned = b.add(op.Permute, axes=(0, 2, 1))
    half = b.add(op.Slice, turned, start=(0, 1, 0), stop=(3, 7, 6), step=(1, 2, 1))
    b.add(op.Repeat, half, times=(2, 1, 2))
    wide = b.requantize(b.last, b.last, most=2**16, least=-(2**16))
    b.add(op.Conv, summed, **b.signs(5, 12), kernel=(2, 2), stride=(2, 2))
    b.requantize()
    b.add(op.Flatten)
    b.add(op.Add, b.last, b.last)
    b.requantize(most=3)
    b.dense(6)
    return b.net((b.last, summed, half, wide))


def turned_net(*, real: bool) -> PackedNet:
    """Sums of a value and the same value with its axes exchanged, which must not be written over it."""
    b = Builder((3, 3, 1), coding="values")
    x = b.affine(3) if real else b.requantize()
    y = b.add(op.Permute, axes=(1, 0, 2))
    return b.net(b.add(op.Add, x, y) if real else b.requantize(x, y))


def windows_net(kind: str) -> PackedNet:
    """Windows of bytes of every form, with the largest sums: all weights of some outputs are equal."""
    b = Builder((5, 9, 10), coding="values", seed=len(kind))
    x = "input"
    if kind != "input":
        low = -128 if kind == "int8" else 0
        one, offset = np.ones((1, 5), np.int32), np.full(5, low, np.int64)
        x = b.add(op.Requantize, multiplier=one, offset=offset, right_shift=0, least=low, most=255 + low)
    outputs = [
        _conv(b, x, 8, kernel=(3, 3), padding=(1, 1, 1, 1), value=1),
        _conv(b, x, 16, kernel=(3, 3), padding=(1, 1, 1, 1), value=-1),
        _conv(b, x, 7, kernel=(3, 3), padding=(1, 1, 1, 1)),
        _conv(b, x, 8, kernel=(3, 2), padding=(0, 2, 2, 1), stride=(2, 3), dilation=(1, 2)),
        _conv(b, x, 8, kernel=(5, 5), padding=(2, 2, 2, 2)),
        _conv(b, x, 8, kernel=(1, 4)),
        _conv(b, x, 10, kernel=(3, 3), groups=5, padding=(2, 0, 1, 1), value=1),
        _conv(b, x, 40, kernel=(3, 3), groups=5, padding=(2, 0, 1, 1)),
        _conv(b, x, 8, kernel=(9, 9)),  # several parts, windows of two columns
        _conv(b, x, 8, kernel=(9, 10)),  # a window as wide as the image
        b.add(op.ConvTranspose, x, **b.signs(3, 20), kernel=(2, 2), stride=(2, 1)),
    ]
    pooled = b.add(op.MaxPool, x, kernel=(2, 2), stride=(2, 1), padding=(1, 0, 0, 1))
    bordered = b.add(op.Pad, pooled, channels=(1, 2), padding=(0, 1, 2, 0), value=1)
    outputs.append(_conv(b, bordered, 3, kernel=(3, 3), padding=(1, 1, 1, 1)))
    b.add(op.Concat, pooled, pooled)
    outputs.append(_conv(b, b.last, 3, kernel=(2, 2), stride=(1, 2)))
    outputs.append(_conv(b, pooled, 8, kernel=(2, 2), stride=(1, 2)))
    outputs.append(b.add(op.AveragePool, x, kernel=(3, 3), padding=(1, 1, 0, 0), sums=1))
    b.add(op.Flatten, x)
    outputs.append(b.add(op.Dense, **b.signs(3, 450)))
    return b.net(tuple(outputs))


def _conv(b: Builder, x: str, outputs: int, *, value: int = 0, groups: int = 1, **window: Any) -> str:
    """A convolution; the weights of its first outputs are all +1 and all -1."""
    terms = b.values[x].shape[0] // groups * int(np.prod(window["kernel"]))
    signs = b.rng.choice([-1, 1], (outputs, terms))
    signs[0], signs[1] = 1, -1
    packed = {"signs": pack_signs(signs), "in_features": terms}
    return b.add(op.Conv, x, **packed, groups=groups, padding_value=value, **window)


def rounded_net() -> PackedNet:
    """Real values of every magnitude, infinite ones too, and integers, as integers of every range."""
    b = Builder((6, 5), coding="float32")
    doubled = b.add(op.Affine, scale=np.full(6, 2, np.float32))
    halves = b.add(op.Affine, scale=np.full(6, 0.5, np.float32))
    huge = b.add(op.Affine, doubled, scale=np.full(6, 3e38, np.float32))
    made = [b.add(op.Quantize, x, least=low, most=high) for x in (doubled, halves, huge) for low, high in RANGES[:-1:2]]
    made.append(b.add(op.Quantize, made[-1], least=-3, most=200))
    b.add(op.Concat, *made)
    return b.net(b.requantize(least=-100))


def real_weights_net() -> PackedNet:
    """Real weights and scales on bytes, and bytes of their sums."""
    b = Builder((4, 5, 5), coding="values")
    b.add(op.RealConv, weight=b.real(6, 36), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.affine(6)
    b.add(op.Quantize, least=-128, most=127)
    b.add(op.Conv, **b.signs(8, 54, scale=True, centre=True), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(op.Quantize, least=0, most=255)
    b.add(op.Conv, **b.signs(4, 32, scale=True), kernel=(2, 2))
    b.affine(4)
    return b.net()


EXTREMES = {
    "ranges": ranges_net,
    "sums": sums_net,
    "turned": lambda: turned_net(real=False),
    "turned real": lambda: turned_net(real=True),
    "input windows": lambda: windows_net("input"),
    "uint8 windows": lambda: windows_net("uint8"),
    "int8 windows": lambda: windows_net("int8"),
    "rounded": rounded_net,
    "real weights": real_weights_net,
}


def extreme_inputs(net: PackedNet) -> np.ndarray:
    """All at the least, all at the largest, and any numbers; reals at ties and beyond every range."""
    rng = np.random.default_rng(0)
    size = net.input.shape
    if net.input.dtype == "float32":
        ties = rng.integers(-300, 300, size) + np.float32(0.5)
        special = rng.choice(np.float32([0, -0.0, 0.5, -0.5, 1.5, 2.5, 8388607.5, -3e9, 1e30, 65535.5, 1e-40]), size)
        return np.stack([ties, special, ties * np.float32(201)]).astype(np.float32)
    return np.stack([np.full(size, 0), np.full(size, 255), *rng.integers(0, 256, (2, *size))]).astype(np.uint8)
