"""Base classes of operations with rows of one-bit or real weights, and dense layers."""

from __future__ import annotations

from abc import abstractmethod
from math import prod

import numpy as np

from onebit.errors import FormatError
from onebit.packed.bits import byte_count, check_tail, unpack_signs, word_count
from onebit.packed.nodes.node import Node, Value, integer, operation


@operation()
class Weights(Node):
    """Base class of nodes with a row of weights per output."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of rows of weights."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """Weights per row, the number of products in a sum."""

    @property
    @abstractmethod
    def rows(self) -> np.ndarray:
        """(outputs, terms): int8 ±1, or float32 real weights."""

    def macs(self, x: Value, y: Value) -> int:
        return self.terms * prod(y.shape)

    def products(self, x: Value, shape: tuple[int, ...], *, zeros: int = 0) -> Value:
        """The value of shape `shape` with sums of row · x; FormatError if integers may not fit an int32.

        zeros: a sum may lack a multiple of this number of terms, for which a border has zeros.
        """
        return Value(shape, "real")


@operation()
class OneBitWeights(Weights):
    """Base class of nodes with a row of one-bit weights per output: y = scale · (signs · x) + `centre` · sum(x).

    Sums of integers stay integers without `scale` and `centre`; otherwise y is real.

    Args:
        signs: (O, ceil(in_features / 64)) uint64 words, see `onebit.packed.bits.pack_signs`.
        in_features: signs per row.
        scale: (O,) float32 or None for 1.
        centre: (O,) float32 or None for 0.
    """

    signs: np.ndarray
    in_features: int
    scale: np.ndarray | None = None
    centre: np.ndarray | None = None

    def shape_of(self, name: str) -> tuple[int, ...]:
        return (self.outputs, word_count(self.in_features)) if name == "signs" else (self.outputs,)

    @property
    def outputs(self) -> int:
        return len(self.signs)

    @property
    def terms(self) -> int:
        return self.in_features

    @property
    def rows(self) -> np.ndarray:
        return unpack_signs(self.signs, self.in_features)

    def products(self, x: Value, shape: tuple[int, ...], *, zeros: int = 0) -> Value:
        if x.bound is None:
            return Value(shape, "real")
        sums = integer(shape, self.in_features * x.bound, step=1 if zeros * x.bound % 2 else x.step)
        return sums if self.scale is None and self.centre is None else Value(shape, "real")

    def check_values(self, *inputs: Value) -> None:
        super().check_values(*inputs)
        check_tail(self.signs, self.in_features)

    @property
    def binary_weights(self) -> int:
        return self.outputs * self.in_features

    @property
    def stored_bytes(self) -> int:
        return self.outputs * byte_count(self.in_features) + super().stored_bytes


@operation()
class RealWeights(Weights):
    """Base class of nodes with a row of real weights per output, often the first and last layers: y = weight · x.

    Args:
        weight: (O, in_features) float32.
    """

    weight: np.ndarray

    @property
    def outputs(self) -> int:
        return len(self.weight)

    @property
    def terms(self) -> int:
        return self.weight.shape[1]

    @property
    def rows(self) -> np.ndarray:
        return self.weight

    @property
    def real_weights(self) -> int:
        return self.weight.size


@operation()
class DenseLayer(Weights):
    """Base class of dense layers: (terms,) -> (O,)."""

    def infer(self, x: Value) -> Value:
        if x.shape != (self.terms,):
            raise FormatError(f"got a value of shape {x.shape}, expected ({self.terms},)")
        return self.products(x, (self.outputs,))


@operation("dense")
class Dense(DenseLayer, OneBitWeights):
    """Dense layer with one-bit weights: (in_features,) -> (O,)."""


@operation()
class ScaledDense(DenseLayer, OneBitWeights):
    """Dense layer of one-bit weights with scales for groups of inputs; no file holds it, as it is not in `OPS`.

    y = Σ_g scales[:, g] · (signs · x of group g), added in float32 in the order of the groups.

    Args:
        scales: (O, G) float32, each for in_features / G inputs.
    """

    scales: np.ndarray

    def shape_of(self, name: str) -> tuple[int, ...]:
        return (self.outputs, self.scales.shape[1]) if name == "scales" else super().shape_of(name)

    @property
    def group(self) -> int:
        """Inputs of a group."""
        return self.in_features // self.scales.shape[1]

    def products(self, x: Value, shape: tuple[int, ...], *, zeros: int = 0) -> Value:
        return Value(shape, "real")


@operation("real_dense")
class RealDense(DenseLayer, RealWeights):
    """Dense layer with real weights: (in_features,) -> (O,)."""
