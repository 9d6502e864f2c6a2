"""Products of two values, as in attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.errors import FormatError
from onebit.packed.grid import exact_products, on_grid
from onebit.packed.nodes.node import Node, Value, check_size, operation, require_image


@operation("product")
class Product(Node):
    """(K, B, T) and (K, B, S) -> (S, B, T): each pixel of a row times each pixel of the same row, summed over channels.

    Both values are rounded to their grids; sums are exact, then rounded to float32 and multiplied by the unit of the
    first and of the second grid.
    """

    arity = 2

    def infer(self, a: Value, b: Value) -> Value:
        (channels, rows, columns), other = require_image(a), require_image(b)
        if other[:2] != (channels, rows):
            raise FormatError(f"got values of shapes {a.shape} and {b.shape}, expected equal channels and rows")
        check_size("its value", (other[2], rows, columns))
        return Value((other[2], rows, columns), "real")

    def compute(self, dtype: Any, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        (a, a_units), (b, b_units) = (on_grid(x.astype(np.float32)) for x in (v, w))
        sums = exact_products(b.transpose(0, 2, 3, 1).astype(np.float64), a.transpose(0, 2, 1, 3).astype(np.float64))
        y = sums.astype(np.float32) * a_units.reshape(-1, 1, 1, 1) * b_units.reshape(-1, 1, 1, 1)
        return y.transpose(0, 2, 1, 3)
