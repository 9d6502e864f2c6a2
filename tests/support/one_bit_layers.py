"""Modules that hold bits, and the node of a packed net that they must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from onebit.modules.layers import PackedConv, PackedLinear
from onebit.modules.operators import PackedWindow
from onebit.packed import Value
from onebit.packed.bits import bytes_to_words
from onebit.quantizers import BinaryWeight
from onebit.runtime.executors import executor_of
from support.executors import EXECUTORS, chosen


def one_bit(
    rng: np.random.Generator, outputs: int, terms: int, names: tuple[str, ...] = (), kernel: tuple[int, ...] = ()
) -> tuple[BinaryWeight, Tensor | None]:
    """A drawn weight (outputs, terms), or (outputs, channels, *kernel), with these of scale, center and bias."""
    signs = torch.from_numpy(rng.choice(np.array([-1, 1], np.float32), (outputs, terms)))
    if kernel:
        signs = signs.view(outputs, -1, *kernel)
    drawn = {name: torch.from_numpy(rng.standard_normal(outputs).astype(np.float32)) for name in names}
    return BinaryWeight(signs, drawn.get("scale"), drawn.get("center")), drawn.get("bias")


def of_node(kind: Any, layer: Any, x: Tensor, **fields: Any) -> np.ndarray:
    """What the reference executor of a packed net's node makes of real inputs, plus the bias."""
    scales = {"scale": layer.scale, "centre": layer.center}
    arrays = {name: None if value is None else value.numpy() for name, value in scales.items()}
    words = bytes_to_words(layer.signs.numpy(), layer.terms)
    node = kind(inputs=("x",), output="y", signs=words, in_features=layer.terms, **arrays, **fields)
    values = np.where(x < 0, -1, 1).astype(np.float32) if layer.sign_inputs else x.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        y = executor_of(node, Value(tuple(x.shape[1:]), "real"))(values)
        return y if layer.bias is None else y + layer.bias.numpy().reshape(-1, *[1] * (y.ndim - 2))


def assert_same_bits(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.numpy().view(np.int32), np.ascontiguousarray(expected).view(np.int32))


def assert_node(kind: Any, layer: Any, x: Tensor, **fields: Any) -> None:
    """On every instruction set and in numpy, a layer gives the bits of a packed net's node."""
    expected = of_node(kind, layer, x, **fields)
    for executor in EXECUTORS:
        with chosen(executor):
            assert_same_bits(layer(x), expected)


def small_layer(**more: Any) -> PackedLinear:
    rng = np.random.default_rng(1)
    return PackedLinear(*one_bit(rng, 6, 20, ("scale", "bias")), **more)


def small_conv() -> PackedConv:
    rng = np.random.default_rng(2)
    window = PackedWindow((3, 3), 2, (2, 1), (1, 1, 0, 1))
    return PackedConv(*one_bit(rng, 8, 36, ("scale", "center"), (3, 3)), window=window)
