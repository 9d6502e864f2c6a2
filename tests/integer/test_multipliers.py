"""The numbers of a requantization round as the exact affine map does, over all integers within the bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.integer.multipliers import half_up, multipliers
from onebit.packed import Requantize
from onebit.packed.nodes import Value

SCALES = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: x if abs(x) > 1e-12 else 0.0)
UNIT = 200
"""Numbers are exact integers in units of 2^-UNIT."""
HALF = 1 << (UNIT - 1)


@np.vectorize(otypes=[object])
def in_units(x: float) -> int:
    return int(float(x) * 2.0**UNIT)


def off(made: dict[str, Any], bounds: list[int]) -> float:
    """The largest difference from the exact map before rounding: half a unit of each number."""
    return (sum(bounds) + 1) / 2 / 2.0 ** made["right_shift"]


def assert_rounds(
    made: dict[str, Any], scales: np.ndarray, constant: np.ndarray, bounds: list[int], integers: np.ndarray
) -> None:
    """Integers (n, inputs) are rounded half up, unless the exact number is nearer to a tie than the numbers are off."""
    integers = integers.astype(object)
    exact = integers @ in_units(scales) + in_units(constant)
    found = integers @ made["multiplier"].astype(object) + made["offset"].astype(object)
    decided = abs(exact % (2 * HALF) - HALF) > in_units(off(made, bounds))
    assert (found >> made["right_shift"] == (exact + HALF) >> UNIT)[decided].all()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_requantization_rounds_as_the_exact_map_does(data: st.DataObject, seed: int) -> None:
    inputs = data.draw(st.integers(1, 3))
    bounds = data.draw(st.lists(st.sampled_from([1, 3, 255, 32768, 147_456, 2**24]), min_size=inputs, max_size=inputs))
    rows = [data.draw(st.lists(SCALES, min_size=2, max_size=2)) for _ in bounds]
    scales, constant = np.array(rows), np.array(data.draw(st.lists(SCALES, min_size=2, max_size=2)))
    made = multipliers(scales, constant, bounds)
    if made is None:
        return
    assert off(made, bounds) <= 1 / 256
    node = Requantize(inputs=("x",) * inputs, output="y", least=0, most=255, **made)
    node.check_values(*(Value((2,), "integer", bound) for bound in bounds))
    most = np.array(bounds)
    integers = np.random.default_rng(seed).integers(-most, most + 1, (200, inputs))
    assert_rounds(made, scales, constant, bounds, np.concatenate([integers, -most[None], most[None]]))


def test_short_fractions_are_exact_at_ties_too() -> None:
    made = multipliers(np.array([[0.25]]), np.array([0.5]), [100])
    assert made is not None
    x = np.arange(-100, 101)
    found = (x * int(made["multiplier"][0, 0]) + int(made["offset"][0])) >> made["right_shift"]
    np.testing.assert_array_equal(found, np.floor(x / 4 + 1))


@pytest.mark.parametrize(
    ("scale", "bound", "shift"),
    [
        (2.0**-10, 2**22, 38),  # a sum below 2^51
        (1.5, 1, 30),  # a multiplier within int32
        (2.0**-40, 1, 50),  # a constant of 1 below 2^51
    ],
)
def test_the_shift_is_the_largest_with_which_all_magnitudes_are_exact(scale: float, bound: int, shift: int) -> None:
    made = multipliers(np.array([[scale]]), np.zeros(1), [bound])
    assert made is not None
    assert made["right_shift"] == shift


@pytest.mark.parametrize(
    ("scale", "constant", "bound"),
    [(2.0**31, 0.0, 1), (1e300, 0.0, 1), (1.0, 2.0**51, 1), (np.nan, 0.0, 1), (np.inf, 0.0, 1), (2.0**30, 0.0, 2**30)],
)
def test_numbers_that_are_too_large_are_none(scale: float, constant: float, bound: int) -> None:
    assert multipliers(np.array([[scale]]), np.array([constant]), [bound]) is None


def test_numbers_err_by_at_most_a_256th() -> None:
    scale, constant = np.array([[2.0**22]]), np.zeros(1)
    made = multipliers(scale, constant, [1])
    assert made is not None
    assert off(made, [1]) == 1 / 256
    assert multipliers(scale, constant, [2]) is None


def test_half_up() -> None:
    assert [half_up(x) for x in (-1.5, -0.5, 0.49, 0.5, 1.5, np.inf, -np.inf)] == [-1, 0, 0, 1, 2, np.inf, -np.inf]
