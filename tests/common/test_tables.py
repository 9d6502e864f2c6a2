"""`resolve` and its did-you-mean."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from onebit.common.tables import did_you_mean, resolve
from onebit.errors import OnebitError, UnknownNameError, UsageError

TABLE = {"ste_sign": int, "stochastic": str}


def test_a_name_gives_its_entry() -> None:
    assert resolve(TABLE, "ste_sign", kind="quantizer") is int


@pytest.mark.parametrize("thing", [None, int, 3, object()])
def test_whatever_is_not_a_name_comes_back_as_it_is(thing: object) -> None:
    assert resolve(TABLE, thing, kind="quantizer") is thing


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("sign_ste", TABLE, "; did you mean 'ste_sign'?"),
        ("MNIST-MLP", ["mnist-mlp", "other"], "; did you mean 'mnist-mlp'?"),
        ("adam", ["SGD", "Adam"], "; did you mean 'Adam'?"),
        ("xyz", ["stochastic", "ste_sign"], "; known: ste_sign, stochastic"),
        ("x", [], ""),
    ],
)
def test_similar_names_or_all_are_offered(name: str, known: Iterable[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected


def test_an_unknown_name_is_a_usage_error_with_exit_status_2() -> None:
    assert issubclass(UnknownNameError, UsageError)
    assert issubclass(UsageError, OnebitError)
    assert UnknownNameError("").exit_status == 2
    with pytest.raises(UnknownNameError, match="ste_sign"):
        resolve(TABLE, "sign_ste", kind="quantizer")
