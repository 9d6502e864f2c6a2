"""Real values on a grid: integers times a power of two, so that their sums are exact in every order.

A sum of float32 values depends on the order of additions, and so on the matrix library, the instruction set and the
number of threads; a sum of integers does not. So the inputs of a product with weights are rounded to multiples of 2⁻ᵉ,
of which the largest input is at most 2²⁴: the precision of float32 at the largest input.
"""

from __future__ import annotations

import numpy as np

GRID_BITS = 24
"""Integers on a grid are within ±2²⁴: sums of 127 fit an int32, and sums of 32 products of two a float64, exactly."""
FLOAT32_EXACT = 2**GRID_BITS
"""float32 holds every integer up to here, so sums of integers that stay below are exact in any order."""
_MAX_EXPONENT = 126
"""The largest e for which 2ᵉ and 2⁻ᵉ are normal float32 numbers."""
EXACT_TERMS = 32
MAX_EXACT_TERMS = 2**15


def on_grid(values: np.ndarray, *, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Integers z and exponents e with values[i] ≈ z[i] · 2^-e[i].

    e = min(126, 24 - p), where the largest magnitude in values[i], or `least`, lies in [2^(p-1), 2^p);
    z = values · 2^e rounded to the nearest integer, ties to even.

    Args:
        values: (N, …) float32.
        least: a magnitude that the grid must include.

    Returns:
        (N, …) float32 integers, and (N,) float32 of 2⁻ᵉ. Rows with values that are not finite give 0 and NaN.
    """
    rows = values.reshape(len(values), -1)
    largest = np.maximum(rows.max(axis=1, initial=least), -rows.min(axis=1, initial=-least))
    finite = np.isfinite(largest)
    exponent = np.minimum(_MAX_EXPONENT, GRID_BITS - np.frexp(np.where(finite, largest, 1))[1])
    power = np.where(finite, np.ldexp(np.float32(1), exponent), np.float32(0))
    with np.errstate(invalid="ignore"):  # 0 times infinity
        scaled = values * power.reshape(-1, *[1] * (values.ndim - 1))
    np.rint(scaled, out=scaled)
    scaled[~finite] = 0
    return scaled, np.where(finite, np.ldexp(np.float32(1), -exponent), np.float32(np.nan))


def exact_products(weight: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """weight @ columns of integers on grids: (…, R, K) and (…, K, P) float64 -> (…, R, P).

    Exact, in int64, up to 32,768 terms: more could reach 2⁶³. Beyond, exact sums of 32 terms are added in order in
    float64.
    """
    terms = weight.shape[-1]
    dtype = np.int64 if terms <= MAX_EXACT_TERMS else np.float64
    sums = np.zeros(1, dtype)
    for start in range(0, terms, EXACT_TERMS):
        part = slice(start, start + EXACT_TERMS)
        sums = sums + (weight[..., part] @ columns[..., part, :]).astype(dtype)
    return sums
