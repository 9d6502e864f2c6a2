"""Nets that between them take every kernel through its tails: widths beside a word's and a panel's, borders, groups."""

from __future__ import annotations

import numpy as np
from packed_nets import IMAGE_NETS, Builder

from onebit.packed import Conv, Dense, Flatten, PackedNet, RealConv, Relu, Sign


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
    """Rows of more words than a byte or 16 bits can count, of numbers that fill their grid."""
    b = Builder((1, 1, inputs), coding="real")
    b.affine(1)
    b.add(Flatten)
    b.add(Dense, **b.signs(outputs, inputs))
    b.add(Sign)
    b.add(Dense, **b.signs(2 * outputs, outputs))
    return b.net()


def kernel_nets() -> list[PackedNet]:
    nets = [make(seed) for make in IMAGE_NETS.values() for seed in range(2)]
    for form in ("sign", "integer", "real"):
        for channels, outputs in ((1, 1), (3, 16), (33, 37), (64, 130)):
            nets += [_wide(channels, outputs, form, value) for value in (0, 1)]
    return [*nets, _long(2100, 1100)]


def images_of(net: PackedNet, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *net.input.shape), dtype=np.uint8)
