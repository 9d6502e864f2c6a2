"""Nets that together cover the tails of every kernel: widths near those of words and panels, borders, groups."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from onebit.packed import Conv, ConvTranspose, Dense, Flatten, PackedNet, RealConv, Relu, Sign, Threshold
from onebit.packed.nodes import Normalize, Product, ScaledDense, Softmax, Sqrt
from support.packed_nets import IMAGE_NETS, NETS_OF_OTHER_INPUTS, Builder

_INT32 = np.iinfo(np.int32)


def _wide(channels: int, outputs: int, form: str, value: int) -> PackedNet:
    b = Builder((channels, 5, 7))
    if form == "sign":
        b.threshold(channels, most=200)
    if form == "real":
        b.affine(channels)
    geometry = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "padding_value": value}
    b.add(Conv, **b.signs(outputs, 9 * channels, centre=value > 0), **geometry)
    b.affine(outputs)
    b.add(Relu)
    b.add(RealConv, weight=b.real(17, 4 * outputs), kernel=(2, 2))
    b.add(Sign, shift=b.real(17))
    b.add(Flatten)
    b.add(Dense, **b.signs(35, b.values[b.last].shape[0]))
    return b.net()


def _long(inputs: int, outputs: int) -> PackedNet:
    """Rows of more words than a byte or 16 bits can count, with values that fill their grid."""
    b = Builder((1, 1, inputs), coding="real")
    b.affine(1)
    b.add(Flatten)
    b.add(Dense, **b.signs(outputs, inputs))
    b.add(Sign)
    b.add(Dense, **b.signs(2 * outputs, outputs))
    return b.net()


def _threshold_net(kind: str) -> PackedNet:
    """One layer, with thresholds at the limits of int32 and at its own sums, in both directions."""
    b = Builder((5, 4, 6) if kind == "xnor" else (3, 4, 6))
    if kind == "xnor":
        b.threshold(5, most=200)
    if kind == "lookups":
        b.add(Flatten)
        b.add(Relu)  # not the bytes of the image
        b.add(Dense, **b.signs(70, 72))
    else:
        channels = b.values[b.last].shape[0]
        b.add(Conv, **b.signs(70, 9 * channels), kernel=(3, 3), padding=(1, 1, 1, 1))
    most = {"xnor": 45, "dot": 27 * 255, "lookups": 72 * 255}[kind]
    ends = np.array([_INT32.min, _INT32.min + 1, -most, -1, 0, 1, most, _INT32.max - 1, _INT32.max], np.int32)
    at = b.rng.integers(-most // 4, most // 4, 70).astype(np.int32)
    at[: 2 * len(ends)] = np.tile(ends, 2)
    b.add(Threshold, threshold=at, direction=np.repeat(np.array([1, -1, 1], np.int8), [9, 9, 52]))
    return b.net()


THRESHOLD_NETS = {kind: partial(_threshold_net, kind) for kind in ("xnor", "dot", "lookups")}
"""Each net ends in a threshold; the key is the kernel before it, where the instruction set has that kernel."""


def _attention(size: int, rows: int, columns: int) -> PackedNet:
    """Normalizations, products and a softmax, with channels near the lanes of sums."""
    b = Builder((size, rows, columns), coding="float32")
    a = b.add(Normalize, eps=np.float32([1e-5]), groups=1 if size % 3 else 3)
    b.affine(size)
    c = b.add(Normalize, b.last, eps=np.float32([1e-6]), whole=1, centered=0)
    b.add(Product, a, c)
    d = b.add(Softmax)
    b.add(Product, d, d)
    b.add(Sqrt)
    b.add(Conv, **b.signs(40, columns), kernel=(1, 1))
    b.affine(40)
    return b.net()


def kernel_nets() -> list[PackedNet]:
    nets = [make() for make in IMAGE_NETS.values()]
    for form in ("sign", "integer", "real"):
        for channels, outputs, values in ((1, 1, (0,)), (3, 16, (0, 1)), (33, 37, (1,)), (64, 130, (0, 1))):
            nets += [_wide(channels, outputs, form, value) for value in values]
    nets += [make() for make in (*THRESHOLD_NETS.values(), *NETS_OF_OTHER_INPUTS.values())]
    nets += [_attention(*sizes) for sizes in ((1, 1, 1), (15, 2, 5), (33, 3, 70), (64, 1, 261))]
    return [*nets, _long(2100, 1100)]


def scaled_net(group: int, groups: int, outputs: int, *, seed: int = 0) -> PackedNet:
    """One dense layer with a scale for each group of inputs; no file holds it."""
    b = Builder((group * groups,), seed=seed, coding="float32")
    fields = b.signs(outputs, group * groups) | {"scale": None, "centre": None}
    b.add(ScaledDense, **fields, scales=np.abs(b.real(outputs, groups)) + np.float32(0.1))
    return b.net()


def _bytes(draw: st.DrawFn, shape: tuple[int, ...]) -> Builder:
    """A builder whose last value is bytes: coded pixels, pixels, or signed integers."""
    coding = draw(st.sampled_from(["integer", "values", "signed"]))
    b = Builder(shape, seed=draw(st.integers(0, 99)), coding="integer" if coding == "integer" else "values")
    if coding == "signed":
        b.requantize(least=-128, most=127)
    return b


@st.composite
def dense_nets_of_bytes(draw: st.DrawFn) -> PackedNet:
    inputs = st.integers(1, 300) | st.sampled_from([64, 128, 192, 512, 513, 700, 1100])
    b = _bytes(draw, (draw(inputs),))
    b.dense(draw(st.integers(1, 150)))
    b.requantize(least=-7, most=8)
    b.dense(3)
    return b.net()


@st.composite
def convolutions_of_bytes(draw: st.DrawFn) -> PackedNet:
    """A net that ends in a convolution, which may be transposed."""
    groups, channels = draw(st.integers(1, 3)), draw(st.integers(1, 40) | st.just(64))
    b = _bytes(draw, (groups * channels, draw(st.integers(5, 7)), draw(st.integers(5, 24))))
    sides = {"kernel": st.integers(1, 3), "stride": st.integers(1, 3), "dilation": st.integers(1, 2)}
    window: dict[str, Any] = {name: draw(st.tuples(side, side)) for name, side in sides.items()}
    kind = draw(st.sampled_from([Conv, ConvTranspose]))
    if kind is Conv:
        window |= {"padding": draw(st.tuples(*[st.integers(0, 2)] * 4)), "padding_value": draw(st.integers(-1, 1))}
    else:  # its padding cuts the result
        window["padding"] = (0, min(1, window["kernel"][0] - 1), 0, 0)
    rows = groups * draw(st.sampled_from([1, 5, 16, 32, 48, 70, 130]))
    signs = b.signs(rows, channels * prod(window["kernel"]), scale=draw(st.booleans()))
    b.add(kind, **signs, groups=groups, **window)
    return b.net()
