"""The kernels that multiply by weights: weights in panels, and the scratch memory of each kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onebit.native import abi
from onebit.native.kernel_calls import Coding, Slot
from onebit.native.layout import NotPlanned
from onebit.native.library import InstructionSet
from onebit.native.panels import FIVE, FOUR, LOOKUPS, four_panels, lookup_panels, panels, sign_panels
from onebit.native.taps import Axis, padded_columns
from onebit.packed import Conv, OneBitWeights
from onebit.packed.grid import EXACT_TERMS, MAX_EXACT_TERMS, on_grid

_BLOCK_BYTES = 2**17  # of weights that are bytes at the same time, in the second-level cache
_SLACK = 17  # units after the last row, which kernels of bytes may read
_TABLES_KEPT = abi.DOT_LUT_WORDS * abi.DOT_LUT_GROUPS  # of a dense row at the same time
_TABLE_UNITS = abi.DOT_LUT_TABLE // 2  # entries have 16 bits
_DENSE_UNITS = 2 * abi.AMX_STEPS * abi.AMX_BYTES // 4  # weights of a dense layer that are bytes at the same time
_MAX_PLANES_BYTES = 2**18  # one byte of each input that is split at the same time
_MAX_GRID_TAPS = 127  # whose sum of values on a grid fits an int32


@dataclass(frozen=True)
class WeightKernel:
    """A kernel with its weights. scratch: units besides those of segments; more: fields of the call."""

    name: str
    weights: np.ndarray
    tap_words: int
    scratch: int = 0
    more: dict[str, Any] = field(default_factory=dict)


def lookup_kernel(
    node: Any, rows: np.ndarray, axes: tuple[Axis, Axis], width: int, isa: InstructionSet
) -> WeightKernel:
    """±1 × int32. rows: (G, O, T, I) bool. width: pixels per row of the image."""
    groups, outputs, _, channels = rows.shape
    size = isa.lut_inputs * isa.lut_groups
    lookups, table = -(-channels // isa.lut_inputs), 2**isa.lut_inputs
    wide = isa.tile_rows * -(-outputs // isa.lanes) * isa.lanes * 2
    if all(axis.taps.shape[1] == 1 and (axis.taps >= 0).all() for axis in axes):
        tables = isa.tile_rows * isa.dense_words * isa.lut_groups * table
        return WeightKernel("lut", *sign_panels(rows, isa.lanes, size=size), max(wide + tables, isa.row_units))
    more = {"table_rows": axes[0].rows_kept, "table_width": width, "tap_lookups": lookups}
    plain = isinstance(node, Conv) and not node.padding_value and node.centre is None
    if plain and (padded := padded_columns(node, width, len(axes[1].taps))):
        columns, sizes = padded
        if _joins_taps(node):
            rows = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, lookups * isa.lut_inputs - channels)))
            rows = rows.reshape(1, outputs, node.kernel[0], -1)
            more |= {"taps_across": 1, "tap_lookups": lookups * node.kernel[1]}
            columns = Axis(columns.taps[:, :1], 1, columns.advance)
        more |= sizes | {"columns": columns.taps, "runs": columns.runs}
    tables = more["table_rows"] * more["table_width"] * groups * lookups * table
    return WeightKernel("lut", *sign_panels(rows, isa.lanes, size=size), wide + tables, more)


def scaled_kernel(rows: np.ndarray, isa: InstructionSet) -> WeightKernel | None:
    """±1 × int32 with a scale for each tap; None for taps whose sums may not fit an int32. rows: (1, O, T, I) bool."""
    outputs, channels = rows.shape[1], rows.shape[3]
    weights, words = sign_panels(rows, isa.lanes, size=isa.lut_inputs * isa.lut_groups)
    if channels > _MAX_GRID_TAPS + 1 or words > isa.dense_words:  # no float32 is at the end of the grid
        return None
    sums = -(-outputs // isa.lanes) * isa.lanes * 2
    tables = isa.dense_words * isa.lut_groups * 2**isa.lut_inputs
    return WeightKernel("lut", weights, words, max(isa.tile_rows * (sums + tables), isa.row_units))


def dot_kernel(
    node: Any, rows: np.ndarray, axes: tuple[Axis, Axis], slot: Slot, coding: Coding, isa: InstructionSet
) -> WeightKernel:
    """±1 × bytes. rows: (G, O, T, I) bool."""
    groups, outputs, taps, channels = rows.shape
    down, columns = axes
    width, pixel = slot.shape[2], slot.pixel
    unpadded = {"table_rows": down.rows_kept, "table_left": 0, "table_width": width, "table_byte": 0}
    more: dict[str, Any] = {}
    conv, kept, inside = isinstance(node, Conv), 0, bool((columns.taps >= 0).all())
    byte = coding.byte(node.padding_value) if conv and not inside else None
    if byte is not None and (padded := padded_columns(node, width, len(columns.taps))):
        columns, sizes = padded
        more |= unpadded | sizes | {"table_byte": byte}
        kept, inside = more["table_rows"] * more["table_width"] * pixel, True
    inside = inside and conv
    if inside and _joins_taps(node):
        rows = rows.reshape(1, outputs, node.kernel[0], -1)
        columns = Axis(columns.taps[:, :1], columns.stride, columns.advance)
    _, _, taps, channels = rows.shape
    more |= {"tap_channels": channels, "columns": columns.taps, "runs": columns.runs}
    more["taps_across"] = columns.taps.shape[1]
    more["tap_sums"] = tap_sums(rows)
    # whether the layer is dense, as in csrc/dot.h
    one = groups == 1 and not kept and all(axis.taps.size == 1 and axis.taps == 0 for axis in (down, columns))
    looks_up = isa.dot_lut and groups == 1
    if looks_up and (one or (inside and columns.taps.shape[1] == 1)):
        read = 1.0 if one else width * (int(down.taps.max()) + 1) / (len(down.taps) * len(columns.taps))
        if _lookups_are_faster(rows.shape[1:], 1 if one else channels // pixel, read):
            return _dot_lookup_kernel(rows[0], channels if one else pixel, more if one else unpadded | more, isa)
    weights, fours = four_panels(rows)
    more["tap_fours"] = filled = _filled(fours, isa)
    tile = isa.tile_outputs * taps * filled * FOUR  # bytes
    tiles = -(-outputs // isa.tile_outputs)
    more["block"] = max(1, min(tiles, _BLOCK_BYTES // tile))
    base = max(abi.BLOCK, more["block"] * isa.tile_outputs)
    units = base + (more["block"] * tile + kept) // 4 + _SLACK
    if isa.byte_tiles and one:
        units = max(units, base + _DENSE_UNITS + abi.AMX_DENSE_ROWS * isa.tile_outputs)
    elif isa.byte_tiles:  # rows without gaps
        steps = -(-taps * filled * FOUR // abi.AMX_INPUTS)
        units += (abi.AMX_ROWS * (steps | 1) + 1) * abi.AMX_INPUTS // 4
    return WeightKernel("dot", weights, fours, units, more)


def _joins_taps(node: Conv) -> bool:
    """Whether the pixels of a row, or their tables, are contiguous, so that a row can be one tap."""
    return node.groups == 1 and node.dilation[1] == 1


def _filled(fours: int, isa: InstructionSet) -> int:
    """Fours of a tap, including padding: to whole tiles of bytes if that is at most a quarter of them."""
    if isa.byte_tiles and -fours % (abi.AMX_INPUTS // FOUR) <= fours // 3:
        return -(-fours // (abi.AMX_INPUTS // FOUR)) * (abi.AMX_INPUTS // FOUR)
    return -(-fours // isa.dot_fours) * isa.dot_fours


def _lookups_are_faster(shape: tuple[int, ...], across: int, read: float) -> bool:
    """Whether lookups multiply bytes faster than VNNI. shape: (O, T, I), each tap a row of pixels.

    read: pixels whose tables are computed per output pixel. Cycles are those of Zen 4, which starts as many lookups of
    32 sums of five bytes as products of 16 fours; without VNNI products are slower.
    """
    outputs, taps, inputs = shape
    tables = across * -(-inputs // across // FIVE)
    lookups = taps * tables * -(-outputs // 32) * 1.4
    return read * (2 * tables / across + 10) + lookups < taps * -(-inputs // FOUR) * -(-outputs // 16) * 1.05


def _dot_lookup_kernel(rows: np.ndarray, pixel: int, more: dict[str, Any], isa: InstructionSet) -> WeightKernel:
    """±1 × bytes by lookups. rows: (O, T, I) bool, each tap a row of pixels of `pixel` bytes. See csrc/dot_lut.h."""
    outputs, taps, _ = rows.shape
    fives = -(-pixel // FIVE)
    pixels = np.pad(rows.reshape(outputs, taps, -1, pixel), ((0, 0), (0, 0), (0, 0), (0, fives * FIVE - pixel)))
    if pixels.shape[2] == LOOKUPS and "table_rows" in more:  # a word has weights of three pixels
        pixels = pixels.reshape(outputs, taps, LOOKUPS, fives, FIVE).swapaxes(2, 3)
    weights = lookup_panels(pixels.reshape(outputs, taps, -1), isa.dot_lut)
    padded = -(-outputs // isa.tile_outputs) * isa.tile_outputs
    units = max(abi.BLOCK, padded) + isa.tile_rows * padded
    if "table_rows" not in more:
        units += isa.tile_rows * (_TABLES_KEPT + LOOKUPS - 1) * _TABLE_UNITS
    else:
        kept, width = more["table_rows"], more["table_width"]
        units += kept * (width * fives + LOOKUPS - 1) * _TABLE_UNITS + (kept + 1) * width + 8 + -(-pixel // 4)
    return WeightKernel("dot_lut", weights, weights.shape[2] // taps, units, more)


def segment_units(taps: int) -> int:
    """Units of scratch memory for the segments of taps."""
    return -(-taps // 8) * 8 * abi.SEGMENT_UNITS


def tap_sums(rows: np.ndarray) -> np.ndarray:
    """(G, O, T, I) of bool signs or of integers -> (T, G · O) int64, the sum of the weights of each tap."""
    sums = rows.sum(axis=-1, dtype=np.int64)
    sums = 2 * sums - rows.shape[-1] if rows.dtype == bool else sums
    return np.ascontiguousarray(sums.reshape(-1, rows.shape[2]).T)


def planes_of_bytes(inputs: int, isa: InstructionSet) -> tuple[int, int]:
    """Images of a dense layer whose integers are split into bytes at the same time, and units of scratch memory."""
    stride = (-(-inputs // abi.AMX_INPUTS) | 1) * abi.AMX_INPUTS
    rows = max(32, min(64, _MAX_PLANES_BYTES // stride // 32 * 32))
    wide = 2 * abi.AMX_OUTPUTS * rows  # int64 sums
    return rows, _DENSE_UNITS + wide + abi.AMX_PLANES * rows * (stride // 4 + isa.tile_outputs)


def real_kernel(node: Any, rows: np.ndarray) -> WeightKernel:
    """Real weights × int32; NotPlanned if sums may not fit an int64. rows: (G, O, T, I) float64 integers on grids."""
    if node.terms > MAX_EXACT_TERMS:
        raise NotPlanned("sums of more real products than an int64 holds")
    weights = panels(rows.reshape(*rows.shape[:2], -1), abi.REAL_LANES)
    return WeightKernel("real", weights, rows.shape[-1], more={"weight_units": on_grid(node.weight)[1]})


def depthwise_kernel(node: Any, rows: np.ndarray, *, on_a_grid: bool) -> WeightKernel | None:
    """Weights × int32, channel by channel; None if another kernel is needed. rows: (G, O, T, I), see above."""
    groups, outputs, taps, channels = rows.shape
    one_bit = isinstance(node, OneBitWeights)
    most = (_MAX_GRID_TAPS if on_a_grid else taps) if one_bit else EXACT_TERMS
    if channels > 1 or groups == 1 or taps > most or (one_bit and node.centre is not None):
        return None
    by_tap = rows.reshape(groups * outputs, taps).T
    if one_bit:
        return WeightKernel("depthwise", np.where(by_tap, 0, -1).astype(np.int32), groups * outputs)
    more = {"weight_units": on_grid(node.weight)[1]}
    return WeightKernel("depthwise_real", np.ascontiguousarray(by_tap), groups * outputs, more=more)
