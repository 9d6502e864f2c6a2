"""`resolve` and its did-you-mean."""

from __future__ import annotations

import pytest

from onebit.common.tables import did_you_mean, resolve
from onebit.errors import OnebitError, UnknownNameError, UsageError

TABLE = {"ste_sign": int, "stochastic": str}


def test_a_name_gives_its_entry() -> None:
    assert resolve(TABLE, "ste_sign", kind="quantizer") is int


@pytest.mark.parametrize("thing", [None, int, 3, object()])
def test_whatever_is_not_a_name_comes_back_as_it_is(thing: object) -> None:
    assert resolve(TABLE, thing, kind="quantizer") is thing


def test_a_near_name_is_offered() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve(TABLE, "sign_ste", kind="quantizer")
    assert str(caught.value) == "unknown quantizer 'sign_ste'; did you mean 'ste_sign'?"


def test_far_names_are_all_listed_in_order() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown quantizer 'xyz'; known: ste_sign, stochastic$"):
        resolve(TABLE, "xyz", kind="quantizer")


def test_an_empty_table_has_nothing_to_offer() -> None:
    assert did_you_mean("x", []) == ""
    assert did_you_mean("MNIST-MLP", ["mnist-mlp", "other"]) == "; did you mean 'mnist-mlp'?"
    assert did_you_mean("adam", ["SGD", "Adam"]) == "; did you mean 'Adam'?"


def test_an_unknown_name_is_a_usage_error_with_exit_status_2() -> None:
    assert issubclass(UnknownNameError, UsageError)
    assert issubclass(UsageError, OnebitError)
    assert UnknownNameError("").exit_status == 2
