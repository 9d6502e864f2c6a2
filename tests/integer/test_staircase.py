"""Proofs of requantizations count what trying all integers in fractions counts."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import floor, inf
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onebit.integer import staircase
from onebit.integer.multipliers import multipliers
from onebit.integer.staircase import RealRounding, proved
from onebit.packed import Requantize

UNIT = 1 / 64
NEAR = 2.0**-30  # numbers below are multiples of a larger one


class Drawn(NamedTuple):
    node: Requantize
    real: RealRounding
    limits: list[tuple[int, int]]


@st.composite
def roundings(draw: st.DrawFn) -> Drawn:
    """A small node whose numbers are a little off, so that some integers differ and others are exactly at a tie."""
    inputs, channels, shift = draw(st.integers(1, 3)), 2, draw(st.integers(1, 14))
    limits = draw(
        st.lists(st.tuples(st.integers(-6, 3), st.integers(4, 9)), min_size=inputs, max_size=inputs),
    )
    count = (inputs, channels)
    whole = st.lists(st.integers(-150, 150), min_size=inputs * channels, max_size=inputs * channels)
    off = st.lists(st.integers(-3, 3), min_size=inputs * channels, max_size=inputs * channels)
    scales = np.array(draw(whole), np.float64).reshape(count) * UNIT
    shifts = np.array(draw(st.lists(st.integers(-300, 300), min_size=channels, max_size=channels))) * UNIT
    multiplier = np.rint(scales * 2**shift) + np.array(draw(off)).reshape(count)
    offset = np.rint(shifts * 2**shift).astype(np.int64) + 2 ** (shift - 1) + draw(st.integers(-9, 9))
    ends = {"least": draw(st.integers(-8, 0)), "most": draw(st.integers(1, 15))}
    values = tuple("abc"[:inputs])
    fields = {"multiplier": multiplier.astype(np.int32), "offset": offset, "right_shift": shift, **ends}
    return Drawn(Requantize(inputs=values, output="y", **fields), RealRounding(values, scales, shifts, **ends), limits)


def pairs(drawn: Drawn) -> Iterator[tuple[int, int, int, Fraction]]:
    """For each channel and all integers: channel, weighted sum, result of the rule, real number."""
    node, real = drawn.node, drawn.real
    for channel in range(len(node.offset)):
        for integers in product(*(range(low, high + 1) for low, high in drawn.limits)):
            whole = sum(int(m) * x for m, x in zip(node.multiplier[:, channel], integers, strict=True))
            whole += int(node.offset[channel])
            parts = (Fraction(float(a)) * x for a, x in zip(real.scales[:, channel], integers, strict=True))
            number = sum(parts, Fraction(float(real.shift[channel])))
            yield channel, whole, min(max(whole >> node.right_shift, node.least), node.most), number


def trained_result(drawn: Drawn, number: Fraction) -> int:
    """Rounded to even, as torch does."""
    return min(max(round(number), drawn.node.least), drawn.node.most)


def at_a_tie(drawn: Drawn, number: Fraction) -> bool:
    between = drawn.node.least < number < drawn.node.most
    return between and abs(number - floor(number) - Fraction(1, 2)) < NEAR


@settings(max_examples=300, deadline=None)
@given(drawn=roundings())
def test_it_counts_what_all_integers_in_fractions_tell(drawn: Drawn) -> None:
    found = proved(drawn.node, drawn.real, drawn.limits)
    every = list(pairs(drawn))
    scale = 2**drawn.node.right_shift
    apart = max(abs(Fraction(whole, scale) - Fraction(1, 2) - number) for _, whole, _, number in every)
    assert apart <= found.off
    if found.off >= 0.5:
        return
    differs = [result != trained_result(drawn, x) or at_a_tie(drawn, x) for _, _, result, x in every]
    assert found == (found.off, True, len(every), sum(differs))


@settings(max_examples=300, deadline=None)
@given(drawn=roundings())
def test_of_weighted_sums_it_counts_no_fewer_and_they_differ_by_one(drawn: Drawn) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staircase, "MOST_STEPS", 0)
        found = proved(drawn.node, drawn.real, drawn.limits)
    if found.off >= 0.5:
        return
    assert not found.exact
    differing, ends = set(), dict[int, list[int]]()
    for channel, whole, result, number in pairs(drawn):
        ends.setdefault(channel, []).append(whole)
        expected = trained_result(drawn, number)
        assert abs(result - expected) <= 1
        if result != expected:
            differing.add((channel, whole))
    assert found.differing >= len(differing)
    assert found.integers == sum(max(wholes) - min(wholes) + 1 for wholes in ends.values())


def layer(seed: int = 0) -> Drawn:
    """A layer of 16 channels with sums of 2304 products with 8 bits, beside a residual stream of 16 bits."""
    rng = np.random.default_rng(seed)
    scales = np.stack([rng.normal(size=16) / 500, np.full(16, 0.01)])
    shift, limits = rng.normal(size=16) * 20, [(-2304 * 255, 2304 * 255), (0, 65535)]
    made = multipliers(scales, shift, [2304 * 255, 65535])
    assert made is not None
    fields = {"multiplier": made.multiplier, "offset": made.offset, "right_shift": made.shift, "least": 0, "most": 255}
    node = Requantize(inputs=("a", "b"), output="y", **fields)
    return Drawn(node, RealRounding(("a", "b"), scales, shift, 0, 255), limits)


def test_integers_an_ulp_from_a_tie_are_not_decided() -> None:
    """The rule agrees with the float64 numbers: the tie is an ulp below 1 in one channel, above it in the other."""
    shift, offset = 0.5 - np.nextafter(1.0, [0, 2]), np.array([0, -1])
    fields = {"multiplier": np.full((1, 2), 2**14, np.int32), "offset": offset, "right_shift": 14}
    node = Requantize(inputs=("a",), output="y", **fields, least=0, most=1)
    drawn = Drawn(node, RealRounding(("a",), np.ones((1, 2)), shift, 0, 1), [(0, 3)])
    assert all(result == trained_result(drawn, number) for _, _, result, number in pairs(drawn))
    found = proved(*drawn)
    assert (found.exact, found.integers, found.differing) == (True, 8, 2)


def test_pairs_that_are_too_many_are_weighted_sums() -> None:
    found = proved(*layer())
    assert not found.exact
    assert found.off < 1e-3
    assert 0 < found.differing < found.integers / 1000


@pytest.mark.parametrize(("name", "change"), [("multiplier", 2**20), ("offset", 2**22)])
def test_other_numbers_are_off(name: str, change: int) -> None:
    drawn = layer()
    numbers = getattr(drawn.node, name).copy()
    numbers[..., 3] += change
    changed = Requantize(**{**vars(drawn.node), name: numbers})
    assert proved(changed, drawn.real, drawn.limits).off > 10 * proved(*drawn).off


def test_other_limits_are_no_proof() -> None:
    drawn = layer()
    for real in (drawn.real._replace(most=254), drawn.real._replace(least=-1), drawn.real._replace(values=("b", "a"))):
        assert proved(drawn.node, real, drawn.limits).off == inf


def test_many_steps_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = layer()
    numbers = {"multiplier": drawn.node.multiplier[1:], "offset": drawn.node.offset + 2**31, "inputs": ("b",)}
    node = Requantize(**{**vars(drawn.node), **numbers, "least": -100, "most": 600})
    real = RealRounding(("b",), drawn.real.scales[1:], drawn.real.shift, -100, 600)
    expected = proved(node, real, drawn.limits[1:])
    assert expected.exact
    assert expected.differing > 0
    for block in (1, 16, 100, 10_000):
        monkeypatch.setattr(staircase, "_BLOCK", block)
        assert proved(node, real, drawn.limits[1:]) == expected


def test_sums_near_two_steps_count_once() -> None:
    ends = {"least": -(2**16), "most": 2**16}
    fields = {"multiplier": np.ones((2, 4), np.int32), "offset": np.ones(4, np.int64), "right_shift": 1}
    node = Requantize(inputs=("a", "b"), output="y", **fields, **ends)
    real = RealRounding(("a", "b"), np.full((2, 4), 0.5), np.zeros(4), **ends)
    found = proved(node, real, [(-30_000, 30_000)] * 2)
    assert not found.exact
    assert found.differing <= found.integers
