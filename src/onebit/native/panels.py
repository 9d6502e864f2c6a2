"""Weights in panels, the layout that kernels read: rows are interleaved, so that one load has a unit of each output."""

from __future__ import annotations

import numpy as np

WORD = 32  # signs per word of the library
FOUR, OUTPUTS = 4, 32  # bytes that are multiplied at once, and outputs whose weights for them are contiguous
FIVE, LOOKUPS = 5, 3  # bytes whose sums are looked up, and such lookups per word


def sign_panels(bits: np.ndarray, lanes: int, *, size: int = WORD) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), and the words per tap, `size` channels each.

    The first channel is the lowest bit of a word, and so the first input of a lookup the lowest bit of its index.
    """
    groups, outputs, _, channels = bits.shape
    parted = _padded(bits, -channels % size).reshape(groups, outputs, -1, size)
    # packbits does not promise a contiguous result
    rows = np.ascontiguousarray(np.packbits(_padded(parted, WORD - size), axis=-1, bitorder="little"))
    return panels(rows.view("<u4")[..., 0].astype(np.uint32, copy=False), lanes), -(-channels // size)


def four_panels(bits: np.ndarray) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint8 (G, panels, bytes), and the fours of inputs per tap.

    Weight k of output o of a four is bit 4o + k. Inputs after the last of a tap have the weight 0.
    """
    groups, outputs, taps, channels = bits.shape
    fours = -(-channels // FOUR)
    padded = np.pad(bits, ((0, 0), (0, -outputs % OUTPUTS), (0, 0), (0, -channels % FOUR)))
    parted = padded.reshape(groups, -1, OUTPUTS, taps * fours, FOUR).swapaxes(2, 3)
    panels = np.packbits(parted.reshape(*parted.shape[:2], -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(panels), fours


def lookup_panels(bits: np.ndarray, lanes: int) -> np.ndarray:
    """(O, N, I) bool -> uint16 (1, panels, N · words, lanes): fives of inputs, three of them in a word.

    The inputs are in fives. The two halves of a panel alternate, see csrc/dot_lut.h.
    """
    outputs, taps, inputs = bits.shape
    size = FIVE * LOOKUPS
    parted = _padded(np.pad(bits, ((0, -outputs % lanes), (0, 0), (0, 0)))[None], -inputs % size)
    rows = np.packbits(_padded(parted.reshape(1, 1, -1, size), 1), axis=-1, bitorder="little")
    words = np.ascontiguousarray(rows).view("<u2").reshape(-1, 2, lanes // 2, taps * -(-inputs // size))
    return words.transpose(0, 3, 2, 1).astype(np.uint16, order="C").reshape(1, len(words), -1, lanes)


def panels(rows: np.ndarray, lanes: int) -> np.ndarray:
    """(G, O, U) -> (G, panels, U, lanes), padded with outputs of 0."""
    groups, outputs, units = rows.shape
    padded = np.pad(rows, ((0, 0), (0, -outputs % lanes), (0, 0)))
    return np.ascontiguousarray(padded.reshape(groups, -1, lanes, units).swapaxes(2, 3))


def _padded(bits: np.ndarray, count: int) -> np.ndarray:
    """`count` zeros after the last axis of (G, O, N, I)."""
    return np.pad(bits, ((0, 0), (0, 0), (0, 0), (0, count)))
