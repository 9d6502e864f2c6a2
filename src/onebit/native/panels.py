"""Weights as the kernels read them: in panels, which interleave rows so that one load reads a unit of every output."""

from __future__ import annotations

import numpy as np

WORD = 32  # signs per word of the library
_MOST_CONSTANT = 64  # some processors add two products with 255 in 16 bits


def sign_panels(bits: np.ndarray, lanes: int, *, size: int = WORD) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), and the words per tap, `size` channels each.

    The first channel is the lowest bit of a word, and so the first input of a lookup the lowest bit of its index.
    """
    groups, outputs, _, channels = bits.shape
    parted = _padded(bits, -channels % size).reshape(groups, outputs, -1, size)
    # contiguous, which packbits alone does not promise
    rows = np.ascontiguousarray(np.packbits(_padded(parted, WORD - size), axis=-1, bitorder="little"))
    return panels(rows.view("<u4")[..., 0].astype(np.uint32, copy=False), lanes), -(-channels // size)


def byte_panels(bits: np.ndarray, lanes: int, *, coding: str = "integer") -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), four int8 each, and the words per tap.

    They multiply uint8 images x. With the coding "integer" they give the sums of 2x − 255, as
    Σ w(2x − 255) = Σ 2w·x + 255·(−Σ w): weights are ±2, and the inputs of a tap are followed by bytes of 255 whose
    weights add up to −Σ w. With "values" weights are ±1, and the weights of these bytes are 0.
    """
    if coding == "values":
        weights = np.zeros((*bits.shape[:-1], 4 * -(-bits.shape[-1] // 4)), np.int8)
        weights[..., : bits.shape[-1]] = np.where(bits, 1, -1)
        return _panels_of_bytes(weights, lanes)
    rest = bits.shape[-1] - 2 * bits.sum(axis=-1)
    constants = max(1, -(-int(np.abs(rest).max(initial=0)) // _MOST_CONSTANT))
    words = -(-(bits.shape[-1] + constants) // 4)
    weights = np.zeros((*bits.shape[:-1], 4 * words), np.int8)
    weights[..., : bits.shape[-1]] = np.where(bits, 2, -2)
    for k in range(bits.shape[-1], 4 * words):
        weights[..., k] = rest.clip(-_MOST_CONSTANT, _MOST_CONSTANT)
        rest = rest - weights[..., k]
    return _panels_of_bytes(weights, lanes)


def _panels_of_bytes(weights: np.ndarray, lanes: int) -> tuple[np.ndarray, int]:
    rows = np.ascontiguousarray(weights).view("<u4").astype(np.uint32, copy=False)
    return panels(rows.reshape(*weights.shape[:2], -1), lanes), rows.shape[-1]


def panels(rows: np.ndarray, lanes: int) -> np.ndarray:
    """(G, O, U) -> (G, panels, U, lanes), padded with outputs of 0."""
    groups, outputs, units = rows.shape
    padded = np.pad(rows, ((0, 0), (0, -outputs % lanes), (0, 0)))
    return np.ascontiguousarray(padded.reshape(groups, -1, lanes, units).swapaxes(2, 3))


def _padded(bits: np.ndarray, count: int) -> np.ndarray:
    """`count` zeros after the last axis of (G, O, N, I)."""
    return np.pad(bits, ((0, 0), (0, 0), (0, 0), (0, count)))
