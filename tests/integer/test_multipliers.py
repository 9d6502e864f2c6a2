"""The numbers of a requantization round as the exact affine map does, over all integers within the bounds."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.integer.multipliers import half_up, multipliers
from onebit.packed import Requantize
from onebit.packed.nodes import Value

SCALES = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: x if abs(x) > 1e-12 else 0.0)


def exact(scales: np.ndarray, constant: np.ndarray, integers: list[int], channel: int) -> Fraction:
    products = [Fraction(float(row[channel])) * x for row, x in zip(scales, integers, strict=True)]
    return sum(products, Fraction(float(constant[channel])))


def rounded(made: dict[str, Any], integers: list[int], channel: int) -> int:
    total = sum(int(row[channel]) * x for row, x in zip(made["multiplier"], integers, strict=True))
    return (total + int(made["offset"][channel])) >> made["right_shift"]


def off(made: dict[str, Any], bounds: list[int]) -> float:
    """The largest difference from the exact map before rounding: half a unit of each number."""
    return (sum(bounds) + 1) / 2 / 2.0 ** made["right_shift"]


def assert_alike(
    made: dict[str, Any], scales: np.ndarray, constant: np.ndarray, bounds: list[int], integers: list[int], channel: int
) -> None:
    """Equal to rounding half up, unless the exact number is nearer to a tie than the numbers are off."""
    number = exact(scales, constant, integers, channel)
    from_tie = abs(number - floor(number) - Fraction(1, 2))
    if from_tie > Fraction(off(made, bounds)):
        assert rounded(made, integers, channel) == floor(number + Fraction(1, 2))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_they_round_as_the_exact_map_does(data: st.DataObject) -> None:
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
    for _ in range(20):
        integers = [
            data.draw(st.one_of(st.integers(-bound, bound), st.sampled_from([-bound, bound]))) for bound in bounds
        ]
        for channel in range(2):
            assert_alike(made, scales, constant, bounds, integers, channel)


@pytest.mark.parametrize("seed", range(5))
def test_every_reachable_integer_of_a_layer_is_rounded_half_up(seed: int) -> None:
    """All sums of 30 weights and 8 bits, with the scales of a BatchNorm."""
    rng = np.random.default_rng(seed)
    bound = 30 * 255
    scales, constant = rng.normal(size=(1, 4)) / 50, rng.normal(size=4) * 20
    made = multipliers(scales, constant, [bound])
    assert made is not None
    assert off(made, [bound]) < 1e-6
    for channel in range(4):
        for x in range(-bound, bound + 1):
            assert_alike(made, scales, constant, [bound], [x], channel)


def test_numbers_of_short_fractions_are_exact_also_at_ties() -> None:
    made = multipliers(np.array([[0.25]]), np.array([0.5]), [100])
    assert made is not None
    for x in range(-100, 101):
        assert rounded(made, [x], 0) == floor(Fraction(x, 4) + 1)


@pytest.mark.parametrize(
    ("scale", "constant", "bound"),
    [(2.0**31, 0.0, 1), (1e300, 0.0, 1), (1.0, 2.0**51, 1), (np.nan, 0.0, 1), (np.inf, 0.0, 1), (2.0**30, 0.0, 2**30)],
)
def test_numbers_that_are_too_large_are_none(scale: float, constant: float, bound: int) -> None:
    assert multipliers(np.array([[scale]]), np.array([constant]), [bound]) is None


def test_numbers_are_off_by_a_256th_at_most() -> None:
    scale, constant = np.array([[2.0**22]]), np.zeros(1)
    made = multipliers(scale, constant, [1])
    assert made is not None
    assert off(made, [1]) == 1 / 256
    assert multipliers(scale, constant, [2]) is None


def test_half_up() -> None:
    assert [half_up(x) for x in (-1.5, -0.5, 0.49, 0.5, 1.5, np.inf, -np.inf)] == [-1, 0, 0, 1, 2, np.inf, -np.inf]
