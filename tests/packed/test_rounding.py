"""Requantize and Quantize: shapes, ranges, refusals, and the bound of what is reached before the division."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from onebit.errors import FormatError
from onebit.packed import InputSpec, PackedNet, Quantize, Requantize, Value, dumps
from onebit.packed.nodes.rounding import EXACT_LIMIT
from onebit.runtime.executors import executor_of

BYTES = Value((2, 3, 4), "integer", 255, 0, 255)
SUMS = Value((2, 3, 4), "integer", 2**20)
REALS = Value((2, 3, 4), "real")


def requantize(*inputs: str, multiplier: Any = ((1, 2),), offset: Any = (0, 0), **fields: Any) -> Requantize:
    arrays = {"multiplier": np.array(multiplier, np.int32), "offset": np.array(offset, np.int64)}
    fields = {"right_shift": 3, "least": 0, "most": 255, **fields}
    return Requantize(inputs=inputs or ("x",), output="y", **arrays, **fields)


@pytest.mark.parametrize(("least", "most"), [(0, 255), (-128, 127), (-(2**16), 2**16), (0, 1)])
def test_values_have_the_range_of_the_operation(least: int, most: int) -> None:
    quantize = Quantize(inputs=("x",), output="y", least=least, most=most)
    for made in (requantize(least=least, most=most).infer(SUMS), quantize.infer(REALS), quantize.infer(SUMS)):
        assert made == Value((2, 3, 4), "integer", max(-least, most))
        assert made.limits == (least, most)


def test_any_number_of_inputs_of_equal_shapes() -> None:
    three = requantize("x", "y", "x", multiplier=np.ones((3, 2)))
    assert three.infer(BYTES, SUMS, BYTES).shape == BYTES.shape
    with pytest.raises(FormatError, match="shapes"):
        three.infer(BYTES, SUMS, Value((2, 3, 5), "integer", 1))
    with pytest.raises(FormatError, match="channels"):
        requantize().infer(Value((3, 3, 4), "integer", 1))
    with pytest.raises(FormatError, match="integers"):
        requantize("x", "y", multiplier=np.ones((2, 2))).infer(BYTES, REALS)


@pytest.mark.parametrize(
    ("fields", "noun"),
    [
        ({"multiplier": ((1, 2), (3, 4))}, "multiplier"),
        ({"multiplier": ((1, 2, 3),)}, "multiplier"),
        ({"multiplier": (1, 2)}, "multiplier"),
        ({"offset": ()}, "offset"),
        ({"right_shift": 53}, "right_shift"),
        ({"right_shift": -1}, "right_shift"),
        ({"least": 1}, "least"),
        ({"most": 0}, "most"),
        ({"most": 2**16 + 1}, "most"),
        ({"least": -(2**16) - 1}, "least"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        requantize(**fields)


def test_a_net_that_may_reach_the_limit_is_not_written() -> None:
    """One channel of two is exactly at 2^52, and one below it."""
    offset = np.array([EXACT_LIMIT - 255 * 7, EXACT_LIMIT - 255 * 7 - 1])
    fields: dict[str, Any] = {"multiplier": ((-7, 7),)}
    spec = InputSpec(shape=(2, 3, 4), coding="values")
    for sign in (1, -1):
        with pytest.raises(FormatError, match="1 of 2 channels"):
            dumps(
                PackedNet(
                    inputs={"input": spec}, nodes=(requantize("input", offset=sign * offset, **fields),), output="y"
                )
            )
        dumps(
            PackedNet(
                inputs={"input": spec},
                nodes=(requantize("input", offset=sign * (offset - [1, 0]), **fields),),
                output="y",
            )
        )


@given(st.data())
def test_no_input_reaches_more_than_is_promised(data: st.DataObject) -> None:
    """`reach` is the largest magnitude that any inputs within their bounds give."""
    count, channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    bounds = [data.draw(st.integers(1, 2**31 - 2)) for _ in range(count)]
    multiplier = [[data.draw(st.integers(-(2**31), 2**31 - 1)) for _ in range(channels)] for _ in range(count)]
    offset = [data.draw(st.integers(-(2**63), 2**63 - 1)) for _ in range(channels)]
    node = requantize(*"xyz"[:count], multiplier=multiplier, offset=offset)
    reached = node.reach(*(Value((channels,), "integer", bound) for bound in bounds))
    for c in range(channels):
        exact = sum(abs(row[c]) * bound for row, bound in zip(multiplier, bounds, strict=True)) + abs(offset[c])
        assert (reached[c] >= EXACT_LIMIT) == (exact >= EXACT_LIMIT)
        assert exact >= EXACT_LIMIT or reached[c] == exact


@given(
    st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**20), 2**20)), min_size=1, max_size=3),
    st.integers(-(2**51), 2**51),
    st.integers(0, 52),
)
def test_results_are_floors_of_exact_fractions(terms: list[tuple[int, int]], offset: int, shift: int) -> None:
    numbers = {"multiplier": [[m] for m, _ in terms], "offset": [offset], "right_shift": shift}
    node = requantize(*"xyz"[: len(terms)], least=-100, most=200, **numbers)
    values = [Value((1,), "integer", max(1, abs(x))) for _, x in terms]
    if (node.reach(*values) >= EXACT_LIMIT).any():
        return
    execute = executor_of(node, *values)
    (found,) = execute(*(np.array([[x]], np.int32) for _, x in terms)).ravel()
    total = sum(m * x for m, x in terms) + offset
    assert found == min(max(total // 2**shift, -100), 200)


def test_real_values_are_rounded_to_even_and_clipped() -> None:
    execute = executor_of(Quantize(inputs=("x",), output="y", least=-3, most=4), REALS)
    x = np.float32([[0.5, 1.5, 2.5, -0.5, -1.5, 3.51, 4.5, 1e30, -1e30, np.inf, -np.inf, -2.5000002]])
    assert execute(x).tolist() == [[0, 2, 2, 0, -2, 4, 4, 4, -3, 4, -3, -3]]
    assert execute(x).dtype == np.int32
    with pytest.raises(FormatError, match="1 of 2"):
        execute(np.float32([[np.nan, 1]]))
