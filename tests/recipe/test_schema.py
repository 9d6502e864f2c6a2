"""The bounds of every field of a recipe, as its type states them."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from onebit.errors import UsageError
from onebit.recipe import build_recipe
from support.field_values import TYPES, owner_of, right_values, wrong_values

NEEDED = {"schedule.name": {"schedule.step_size": 1, "schedule.milestones": [1]}}
"""Fields without which some values of another field are refused."""


BOUNDED = [name for name, hint in TYPES.items() if wrong_values(hint)]
assert len(BOUNDED) > 80


def test_null_is_a_value_only_of_a_field_that_may_be_open() -> None:
    for name, hint in TYPES.items():
        if type(None) in get_args(hint):
            assert build_recipe({}, owner_of(name) | {name: "null"}) == build_recipe({}, owner_of(name) | {name: None})
        elif hint in (bool, int, float, str):
            with pytest.raises(UsageError, match=f"^{name}: "):
                build_recipe({}, owner_of(name) | {name: None})


@pytest.mark.parametrize("name", BOUNDED)
def test_the_bounds_of_every_field(name: str) -> None:
    beside = NEEDED.get(name, {}) | owner_of(name)
    for value in right_values(TYPES[name]):
        found: Any = build_recipe({}, beside | {name: value})
        for part in name.split("."):
            found = getattr(found, part)
        assert found == value
        assert build_recipe({}, beside | {name: str(value)}) is not None
    for value in wrong_values(TYPES[name]):
        for written in (value, str(value)):
            with pytest.raises(UsageError, match=f"^{name}: expected "):
                build_recipe({}, beside | {name: written})


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("model.widths", ([784], [784, -3], [784, 10**8], [1] * 1001, 784, "64,ten"), ([1, 1], [1] * 1000)),
        ("model.padding_value", (2, 0.5), (0, 1, -1)),
        ("schedule.milestones", ([math.nan], [0]), ([], [1, 2.5])),
        ("continual.tasks", (1, 1000), (0, 2, 999)),
        ("name", ("", " ", ".", "a/b", "a\\b", "a\nb", "x" * 201), ("a b", "x" * 200)),
    ],
)
def test_bounds_that_are_no_intervals(name: str, wrong: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    for value in wrong:
        with pytest.raises(UsageError, match=f"^{name}: "):
            build_recipe({}, {name: value})
    for value in right:
        build_recipe({}, {name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule.name": "step"},
        {"schedule.name": "milestones"},
        {"schedule.name": "plateau", "schedule.gamma": 1},
        {"schedule.name": "plateau", "schedule.warmup": 1},
        {"augmentation.min_area": 0.5, "augmentation.crop_padding": 1},
    ],
)
def test_fields_that_exclude_or_need_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        build_recipe({}, settings)
