"""Values of files and flags as the types of the fields."""

from __future__ import annotations

import contextlib
import math
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit.errors import UsageError
from onebit.recipe import Recipe
from onebit.recipe.typed import argument, build, flag_text, typed


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("3", int, 3),
        (-3, int, -3),
        ("1e-3", float, 0.001),
        (2, float, 2.0),
        ("inf", float, math.inf),
        ("-.INF", float, -math.inf),
        ("off", bool, False),
        ("Yes", bool, True),
        ("3", str, "3"),
        (PurePosixPath("/runs/teacher"), str | None, "/runs/teacher"),
        ("null", str, "null"),
        ("null", str | None, None),
        ("~", int | None, None),
        ("0.5", float | str, 0.5),
        ("0.5", str | float, 0.5),
        ("glorot", float | str, "glorot"),
        ("null", float | str | None, None),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ([1, "2e0"], tuple[float, ...], (1.0, 2.0)),
        ((), tuple[str, ...], ()),
        ("{a: 1e-10, b: text, c: true}", dict[str, Any] | None, {"a": 1e-10, "b": "text", "c": True}),
    ],
)
def test_a_value_of_the_type(value: Any, kind: Any, expected: Any) -> None:
    found = typed(value, kind)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": True}, "seed: expected int, got True"),
        ({"seed": "1.0"}, "seed: expected int, got 1.0"),
        ({"seed": 2.0}, "seed: expected int, got 2.0"),
        ({"seed": "9" * 100_000}, f"seed: expected int, got {'9' * 100}"),
        ({"epochs": "1" * 40_000 + "x"}, f"epochs: expected float, got {'1' * 100}"),
        ({"epochs": 10**400}, f"epochs: expected float, got 1{'0' * 99}"),
        ({"epochs": [1]}, "epochs: expected float, got [1]"),
        ({"dataset": False}, "dataset: expected str, got False"),
        ({"model": {"widths": "[1, [2]]"}}, "model.widths: expected int, got [2]"),
        ({"model": {"widths": "[" * 5_000}}, f"model.widths: expected tuple, got {'[' * 100}"),
        ({"model": {"widths": "{a: 1}"}}, "model.widths: expected tuple, got {a: 1}"),
        ({"model": {"last_norm": "2"}}, "model.last_norm: expected bool, got 2"),
        ({"model": {"weight_options": "[1]"}}, "model.weight_options: expected dict, got [1]"),
        ({"model": {"weight_options": {1: 2}}}, "model.weight_options: expected dict, got {1: 2}"),
    ],
)
def test_a_value_of_another_type_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(Recipe, settings)
    assert str(caught.value) == message


@given(st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.booleans() | st.none())
def test_the_text_of_an_argument_is_its_value(value: Any) -> None:
    text = "null" if value is None else str(value)
    assert argument(text) == value
    assert argument(value) is value


@given(st.sampled_from(["seed", "epochs", "teacher", "compile"]), st.text(max_size=30))
def test_any_text_is_a_value_or_refused_by_the_name_of_its_field(name: str, text: str) -> None:
    with contextlib.suppress(UsageError):
        assert getattr(build(Recipe, {name: text}), name) == argument(text) or name == "teacher"


@given(st.one_of(st.integers(-(10**17), 10**17), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_as_a_flag_is_read_back(value: float) -> None:
    text = flag_text(value)
    assert typed(text, int | float) == value
    assert not text.endswith(".0")
