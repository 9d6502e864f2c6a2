"""The kernels of products: their weights in panels, and the memory that they need besides."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onebit.grid import MOST_EXACT_TERMS, on_grid
from onebit.native.library import InstructionSet
from onebit.native.panels import byte_panels, lut_panels, real_panels, xnor_panels
from onebit.native.taps import Axis, padded_columns
from onebit.packed import Conv

_SEGMENT_UNITS = 6
_MOST_SCRATCH = 2**28  # units of 4 bytes
_MOST_WIDENED = 2  # rows of tables, by their borders


class NotPlanned(Exception):
    """A net that the library does not run; the reference executor does."""


@dataclass(frozen=True)
class Product:
    """A kernel: the name of its step, fields of it, and units of scratch memory besides that of its segments.

    columns: of rows that are filled up with tables of nothing, in place of those of the image.
    """

    name: str
    weights: np.ndarray
    tap_words: int
    scratch: int = 0
    tall: int = 0
    left: int = 0
    table_width: int = 0
    columns: Axis | None = None
    weight_units: np.ndarray | None = None

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "panel": prod(self.weights.shape[2:]),
            "tap_words": self.tap_words,
            "tall": self.tall,
            "left": self.left,
            "table_width": self.table_width,
            "weight_units": self.weight_units,
            **({} if self.columns is None else {"columns": self.columns.taps, "runs": self.columns.runs}),
        }

    def scratch_of(self, taps: int) -> int:
        """Units of scratch memory.

        Raises:
            NotPlanned: a gigabyte and more.
        """
        if (scratch := -(-taps // 8) * 8 * _SEGMENT_UNITS + self.scratch) > _MOST_SCRATCH:
            raise NotPlanned("tables of a layer beyond a gigabyte")
        return scratch


def of_signs(rows: np.ndarray, isa: InstructionSet) -> Product:
    """±1 × ±1. rows, here and below: (G, O, T, I), of one-bit weights bool."""
    return Product("xnor", *xnor_panels(rows, isa.lanes))


def of_bytes(rows: np.ndarray, isa: InstructionSet) -> Product:
    """±1 × uint8."""
    return Product("bytes", *byte_panels(rows, isa.lanes))


def of_lookups(node: Any, rows: np.ndarray, axes: tuple[Axis, Axis], width: int, isa: InstructionSet) -> Product:
    """±1 × int32. width: pixels in a row of the image."""
    weights, words = lut_panels(rows, isa.lanes, inputs=isa.lut_inputs, groups=isa.lut_groups)
    groups, outputs, _, channels = rows.shape
    stride, table = -(-outputs // isa.lanes) * isa.lanes, 2**isa.lut_inputs
    if all(axis.taps.size == 1 and axis.taps == 0 for axis in axes):
        tables = isa.tile_rows * isa.dense_words * isa.lut_groups * table
        return Product("lut", weights, words, isa.tile_rows * stride * 2 + tables)
    columns, left, table_width = axes[1], 0, width
    if isinstance(node, Conv) and not node.padding_value and node.centre is None:
        padded = padded_columns(node, width, len(columns.taps))
        if padded[2] <= _MOST_WIDENED * width:
            columns, left, table_width = padded
    tall = axes[0].reach
    tables = tall * table_width * groups * -(-channels // isa.lut_inputs) * table
    scratch = isa.tile_rows * stride * 2 + tables
    return Product("lut", weights, words, scratch, tall, left, table_width, columns)


def of_real_weights(node: Any, rows: np.ndarray) -> Product:
    """Real weights × int32. rows: float64 on the grids of the weights.

    Raises:
        NotPlanned: a sum of such products may need more than an int64.
    """
    if node.terms > MOST_EXACT_TERMS:
        raise NotPlanned("sums of more real products than an int64 holds")
    panels = real_panels(rows.reshape(*rows.shape[:2], -1))
    return Product("real", panels, rows.shape[-1], weight_units=on_grid(node.weight)[1])
