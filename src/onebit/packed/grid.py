"""Real values on a grid: integers times a power of two, so that sums of them are exact in every order.

A sum of float32 values depends on the order it is added in, and so on the matrix library, the instruction set and the
number of threads. Integers do not: all of an image's values that meet weights are rounded to multiples of 2⁻ᵉ, 2²⁴ of
which reach as far as the largest of them. That is as fine as float32 holds this largest value.
"""

from __future__ import annotations

import numpy as np

GRID_BITS = 24
"""Integers on a grid reach to ±2²⁴: 127 of them add up to an int32, and 32 products of two to a float64, exactly."""
_MOST = 126
"""The largest e: 2ᵉ and 2⁻ᵉ are ordinary numbers of float32."""
EXACT_TERMS = 32
MOST_EXACT_TERMS = 2**15


def on_grid(values: np.ndarray, *, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Integers z and exponents e with values[i] ≈ z[i] · 2^-e[i].

    e = min(126, 24 - p), where the largest magnitude in values[i], or `least`, lies in [2^(p-1), 2^p);
    z = values · 2^e rounded to the nearest integer, ties to even.

    Args:
        values: (N, …) float32.
        least: a magnitude that the grid has to hold as well.

    Returns:
        (N, …) float32 of integers, and (N,) float32 of 2⁻ᵉ: NaN, with integers 0, where some value is not finite.
    """
    rows = values.reshape(len(values), -1)
    largest = np.maximum(rows.max(axis=1, initial=least), -rows.min(axis=1, initial=-least))
    finite = np.isfinite(largest)
    exponent = np.minimum(_MOST, GRID_BITS - np.frexp(np.where(finite, largest, 1))[1])
    power = np.where(finite, np.ldexp(np.float32(1), exponent), np.float32(0))
    with np.errstate(invalid="ignore"):  # 0 times infinity
        scaled = values * power.reshape(-1, *[1] * (values.ndim - 1))
    np.rint(scaled, out=scaled)
    scaled[~finite] = 0
    return scaled, np.where(finite, np.ldexp(np.float32(1), -exponent), np.float32(np.nan))


def exact_products(weight: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """weight @ columns of integers on grids: (…, R, K) and (…, K, P) float64 -> (…, R, P).

    Exact, in int64, up to 32,768 terms, which is where 2⁶³ may be reached. Beyond, exact sums of 32 terms are added one
    after the other in float64.
    """
    terms = weight.shape[-1]
    dtype = np.int64 if terms <= MOST_EXACT_TERMS else np.float64
    sums = np.zeros(1, dtype)
    for start in range(0, terms, EXACT_TERMS):
        part = slice(start, start + EXACT_TERMS)
        sums = sums + (weight[..., part] @ columns[..., part, :]).astype(dtype)
    return sums
