"""Weights as the kernels read them: the rows of a panel of outputs unit by unit, so that one load meets all of them."""

from __future__ import annotations

import numpy as np

WORD = 32
"""Signs or channels in a word of the library."""
REAL_LANES = 16


def xnor_panels(bits: np.ndarray, lanes: int) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), and words: of a tap, 32 channels each."""
    words = -(-bits.shape[-1] // WORD)
    return _panels(_words(bits, words, WORD), lanes), words


def lut_panels(bits: np.ndarray, lanes: int, *, inputs: int, groups: int) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), and the words of a tap.

    The first of a lookup's inputs is the lowest bit of its index.
    """
    words = -(-bits.shape[-1] // (inputs * groups))
    return _panels(_words(bits, words, inputs * groups), lanes), words


def real_panels(weight: np.ndarray) -> np.ndarray:
    """(G, O, K) float64 -> (G, panels, K, 16)."""
    return _panels(weight, REAL_LANES)


def _words(bits: np.ndarray, words: int, size: int) -> np.ndarray:
    """(G, O, T, I) -> (G, O, T · words), `size` signs in each, the first the lowest bit."""
    *shape, channels = bits.shape
    padded = np.zeros((*shape, words * size), np.bool_)
    padded[..., :channels] = bits
    parted = padded.reshape(*shape[:2], -1, size)
    if size < WORD:
        wide = np.zeros((*parted.shape[:-1], WORD), np.bool_)
        wide[..., :size] = parted
        parted = wide
    rows = np.packbits(parted, axis=-1, bitorder="little")
    return rows.view("<u4")[..., 0].astype(np.uint32, copy=False)


def _panels(rows: np.ndarray, lanes: int) -> np.ndarray:
    """(G, O, U) -> (G, panels, U, lanes), outputs that are not there are 0."""
    groups, outputs, units = rows.shape
    panels = -(-outputs // lanes)
    padded = np.zeros((groups, panels * lanes, units), rows.dtype)
    padded[:, :outputs] = rows
    return np.ascontiguousarray(padded.reshape(groups, panels, lanes, units).swapaxes(2, 3))
