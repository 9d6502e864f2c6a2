"""Nets that together cover the tails of every kernel: widths near those of words and panels, borders, groups."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np

from onebit.packed import Conv, ConvTranspose, Dense, Flatten, PackedNet, RealConv, Relu, Sign, Threshold
from support.packed_nets import IMAGE_NETS, OTHER_NETS, Builder, inputs_of

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


def kernel_nets() -> list[PackedNet]:
    nets = [make() for make in IMAGE_NETS.values()]
    for form in ("sign", "integer", "real"):
        for channels, outputs, values in ((1, 1, (0,)), (3, 16, (0, 1)), (33, 37, (1,)), (64, 130, (0, 1))):
            nets += [_wide(channels, outputs, form, value) for value in values]
    nets += [make() for make in THRESHOLD_NETS.values()]
    nets += [make() for make in OTHER_NETS.values()]
    return [*nets, _long(2100, 1100)]


def add_convolution(
    b: Builder, outputs: int, groups: int, *, transposed: bool, value: int, scale: bool = False, **window: Any
) -> None:
    """A convolution with `outputs` per group, padded with `value`, or a transposed one."""
    if transposed:  # which cuts what the padding covers
        window["padding"] = (0, min(1, window["kernel"][0] - 1), 0, 0)
    else:
        window["padding_value"] = value
    terms = b.values[b.last].shape[0] // groups * prod(window["kernel"])
    b.add(
        ConvTranspose if transposed else Conv, **b.signs(groups * outputs, terms, scale=scale), groups=groups, **window
    )


def images_of(net: PackedNet, count: int, seed: int = 0) -> np.ndarray:
    return inputs_of(net, count, seed)
