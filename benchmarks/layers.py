"""The layers whose kernels are timed: packed nets with one product, and the same product in float32 and 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import onebit
from benchmarks.rivals import Product, Rival, float_rivals, int8_rivals

packed = onebit.packed

KINDS = {
    "xnor": "±1 × ±1",
    "weights": "±1 × real",
    "relu": "±1 × real, not negative",
    "first": "±1 × pixels",
    "integer": "±1 × uint8",
}
"""Kind of the product: weights × inputs.

Real values have both signs, or none is negative, as after a ReLU. Pixels are coded as 2x − 255; uint8 are the
activations of integer nets.
"""

_REAL = ("weights", "relu")
_UNIT = np.float32(1 / 148)  # about the standard deviation of a coded pixel, and not a power of two
_MOST_INT8, _MOST_UINT8 = 127, 255
_ROUNDING = 1e-4  # of the largest sum: the difference that another order of additions makes in float32


@dataclass(frozen=True)
class Case:
    """A layer and the batches that are timed.

    kind: a key of KINDS. shape: (C, H, W) of an image. convolves: 3×3 with zero padding; otherwise dense.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    outputs: int
    batches: tuple[int, ...]
    convolves: bool = False

    @property
    def text(self) -> str:
        channels, height, width = self.shape
        if self.convolves:
            return f"3×3, {channels} → {self.outputs}, {height}×{width}"
        return f"dense {channels} → {self.outputs}"


CASES = {
    case.name: case
    for case in (
        Case("xnor-dense-4096", "xnor", (4096, 1, 1), 4096, (1, 64, 256)),
        Case("xnor-conv-128", "xnor", (128, 32, 32), 128, (1, 32), convolves=True),
        Case("xnor-conv-256", "xnor", (256, 14, 14), 256, (1, 32), convolves=True),
        Case("weights-dense-4096", "weights", (4096, 1, 1), 4096, (1, 8, 64, 256)),
        Case("weights-dense-2048", "weights", (2048, 1, 1), 2048, (1, 8, 64, 256)),
        Case("weights-conv-16", "weights", (16, 32, 32), 16, (1, 32), convolves=True),
        Case("weights-conv-32", "weights", (32, 16, 16), 32, (1, 32), convolves=True),
        Case("weights-conv-64", "weights", (64, 8, 8), 64, (1, 32), convolves=True),
        Case("relu-dense-4096", "relu", (4096, 1, 1), 4096, (64, 256)),
        Case("relu-dense-2048", "relu", (2048, 1, 1), 2048, (64, 256)),
        Case("relu-conv-16", "relu", (16, 32, 32), 16, (1, 32), convolves=True),
        Case("relu-conv-32", "relu", (32, 16, 16), 32, (1, 32), convolves=True),
        Case("relu-conv-64", "relu", (64, 8, 8), 64, (1, 32), convolves=True),
        Case("relu-conv-128", "relu", (128, 16, 16), 128, (1, 32), convolves=True),
        Case("first-dense-784", "first", (784, 1, 1), 2048, (1, 256)),
        Case("first-dense-3072", "first", (3072, 1, 1), 1024, (64,)),
        Case("first-conv-3", "first", (3, 32, 32), 64, (1, 32), convolves=True),
        Case("integer-dense-4096", "integer", (4096, 1, 1), 4096, (1, 8, 64, 256)),
        Case("integer-dense-2048", "integer", (2048, 1, 1), 2048, (1, 8, 64, 256)),
        Case("integer-conv-16", "integer", (16, 32, 32), 16, (1, 32), convolves=True),
        Case("integer-conv-32", "integer", (32, 16, 16), 32, (1, 32), convolves=True),
        Case("integer-conv-64", "integer", (64, 8, 8), 64, (1, 32), convolves=True),
        Case("integer-conv-128", "integer", (128, 16, 16), 128, (1, 32), convolves=True),
    )
}


class Layer:
    """A case with random signs and a batch of images.

    Attributes:
        packed: the net: the nodes that make the inputs of the product, and the product. images: (N, C, H, W) uint8.
        product: the same in float32. int8, zero: with 8-bit inputs, see `benchmarks.rivals.int8_rivals`.
        whole: whether all sums are integers.
        sums: the result of plain torch, float64; slack: the largest difference that others may have.
    """

    def __init__(self, case: Case, batch: int) -> None:
        rng = np.random.default_rng(0)
        channels = case.shape[0]
        terms = channels * 9 if case.convolves else channels
        signs = rng.choice(np.array([-1, 1], np.int8), (case.outputs, terms))
        self.case, self.whole = case, case.kind not in _REAL
        self.packed = packed.PackedNet(
            inputs={
                "input": packed.InputSpec(shape=case.shape, coding="values" if case.kind == "integer" else "integer")
            },
            nodes=tuple(_nodes(case, signs)),
            output="y",
        )
        self.images = rng.integers(0, 256, (batch, *case.shape), dtype=np.uint8)
        coded = self.images.astype(np.float32)
        if case.kind != "integer":
            coded = coded * 2 - 255
        if case.kind == "xnor":
            x, quantized, self.zero = np.sign(coded), np.sign(coded), 1  # coded pixels are odd
        elif case.kind == "weights":
            x = coded * np.float64(_UNIT)
            quantized, self.zero = np.round(x / (np.abs(x).max() / _MOST_INT8)), _MOST_INT8 + 1
        elif case.kind == "relu":
            x = np.maximum(coded, 0) * np.float64(_UNIT)
            quantized, self.zero = np.round(x / (x.max() / _MOST_UINT8)), 0
        else:
            x, quantized, self.zero = coded, self.images, 0
        self.product, self.int8 = (self._product(values, signs) for values in (x, quantized))
        sums = self.product.compute()
        self.sums, self.slack = (
            sums.numpy().astype(np.float64),
            0.0 if self.whole else _ROUNDING * float(sums.abs().max()),
        )

    def _product(self, x: np.ndarray, signs: np.ndarray) -> Product:
        values, weight = (torch.from_numpy(array.astype(np.float32)) for array in (x, signs))
        if self.case.convolves:
            return Product(values, weight.reshape(len(signs), 3, 3, -1).permute(0, 3, 1, 2).contiguous(), True)
        return Product(values.flatten(1), weight, False)

    def rivals(self) -> list[Rival]:
        """Plain torch first."""
        return [*float_rivals(self.product, slack=self.slack), *int8_rivals(self.int8, self.zero)]

    def native_sums(self, made: np.ndarray) -> np.ndarray:
        """The output of a product of a plan, in the layout of plain torch and as float64."""
        sums = (made if self.whole else made.view(np.float32)).astype(np.float64)
        shape = (len(made), *self.sums.shape[1:])
        if self.case.convolves:
            return sums.reshape(shape[0], *shape[2:], shape[1]).transpose(0, 3, 1, 2)
        return sums.reshape(shape)


def _nodes(case: Case, signs: np.ndarray) -> Iterator[packed.Node]:
    channels, last = case.shape[0], "input"
    if not case.convolves:
        yield packed.Flatten(inputs=(last,), output="flat")
        last = "flat"
    if case.kind == "xnor":
        zero, up = np.zeros(channels, np.int32), np.ones(channels, np.int8)
        yield packed.Threshold(inputs=(last,), output="x", threshold=zero, direction=up)
        last = "x"
    elif case.kind in _REAL:
        yield packed.Affine(inputs=(last,), output="x", scale=np.full(channels, _UNIT))
        last = "x"
        if case.kind == "relu":
            yield packed.Relu(inputs=(last,), output="positive")
            last = "positive"
    kernel: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1, 1, 1)} if case.convolves else {}
    layer: type[packed.OneBitWeights] = packed.Conv if case.convolves else packed.Dense
    name = "sums" if case.kind in _REAL else "y"
    yield layer(inputs=(last,), output=name, signs=packed.bits.pack_signs(signs), in_features=signs.shape[1], **kernel)
    if name == "sums":  # reads the inputs after the product, so that they stay in memory and the product can run again
        yield packed.Concat(inputs=("sums", last), output="y")
