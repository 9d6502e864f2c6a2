"""Values of files and flags as the types of the fields."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, strategies as st

from onebit.common.fields import Checked, Share, argument, checked, read, within
from onebit.errors import UsageError
from onebit.recipe import flag_text


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("3", int, 3),
        ("1e-3", float, 0.001),
        (2, float, 2.0),
        ("inf", float, math.inf),
        ("-.INF", float, -math.inf),
        ("off", bool, False),
        ("3", str, "3"),
        (PurePosixPath("/runs/teacher"), str | None, "/runs/teacher"),
        ("null", str, "null"),
        ("null", str | None, None),
        ("~", int | None, None),
        ("0.5", float | str, 0.5),
        ("0.5", str | float, 0.5),
        ("glorot", float | Literal["glorot"], "glorot"),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ([1, "2e0"], tuple[float, ...], (1.0, 2.0)),
        ("1,2", tuple[int, int], (1, 2)),
        ((1, 2), Sequence[int], [1, 2]),
        ("{}", dict[str, Any] | None, {}),
        ("{a: 1e-10, b: text, c: true}", dict[str, Any] | None, {"a": 1e-10, "b": "text", "c": True}),
    ],
)
def test_text_is_read_as_the_type(value: Any, kind: Any, expected: Any) -> None:
    found = read(value, kind, name="x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int),
        ("1.0", int),
        ("9" * 100_000, int),
        ("1" * 40_000 + "x", float),
        (10**400, float),
        (False, str),
        ("3", bool),
        ("1,2,3", tuple[int, int]),
        ("[1, [2]]", tuple[int, ...]),
        ("[" * 5_000 + "x", tuple[int, ...]),
        ("[1]", dict[str, Any]),
        ({1: 2}, dict[str, Any]),
        ("relu", Literal["tanh"]),
    ],
)
def test_a_value_of_another_type_is_refused(value: Any, kind: Any) -> None:
    with pytest.raises(UsageError, match="x") as caught:
        read(value, kind, name="x")
    assert len(str(caught.value)) < 200


@given(st.booleans(), st.booleans(), st.floats(-3, 3) | st.sampled_from([-1.0, 2.0, math.nan, math.inf, -math.inf]))
def test_an_interval_with_open_and_closed_ends(closed_low: bool, closed_high: bool, value: float) -> None:
    bound = within(f"{'[' if closed_low else '('}-1, 2{']' if closed_high else ')'}")
    assert bound.holds(value) == (-1 < value < 2 or (closed_low and value == -1) or (closed_high and value == 2))


def test_a_dataclass_converts_its_fields_and_names_the_wrong_one() -> None:
    @checked(frozen=True)
    class Made(Checked):
        PART = "made"
        share: Share = 0.5
        count: Annotated[int, within("[1, 3]")] | None = None

    assert Made("0.25", "3") == Made(0.25, 3)  # type: ignore[arg-type]
    for wrong in ({"share": 1}, {"share": math.nan}, {"count": 0}, {"count": 1.0}):
        with pytest.raises(UsageError, match=f"made.{next(iter(wrong))}"):
            Made(**wrong)  # type: ignore[arg-type]


@given(st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.booleans() | st.none())
def test_the_text_of_an_argument_is_its_value(value: Any) -> None:
    assert argument("null" if value is None else str(value)) == value
    if type(value) in (int, float):
        assert read(flag_text(value), int | float, name="x") == value
    assert argument(value) is value


@given(st.sampled_from([int, float, str | None, bool]), st.text(max_size=30))
def test_any_text_is_converted_or_refused(kind: Any, text: str) -> None:
    with contextlib.suppress(UsageError):
        found = read(text, kind, name="x")
        assert found == argument(text) or found == text or math.isnan(found)
