"""Flags of a verb and of a recipe: spellings, and what is offered for one that nobody knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cli_support import Outcome

from onebit.cli.parsing import own_spelling

Onebit = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seedz", "0-4"], "unknown option --seedz; did you mean '--seed' or '--seeds'?"),
        (["--print-confg"], "unknown option --print-confg; did you mean '--print-config'?"),
        (["--methd=bnn"], "unknown option --methd; did you mean '--method'?"),
        (["--epoch", "3"], "unknown option --epoch; did you mean '--epochs'?"),
        (["--optimizer.lrr", "3"], "unknown option --optimizer.lrr; did you mean '--optimizer.lr'?"),
        (["--quite-another-thing"], "unknown option --quite-another-thing; "),
    ],
)
def test_an_unknown_flag_gets_the_nearest_ones(onebit: Onebit, flags: list[str], message: str) -> None:
    done = onebit("train", "digits-smoke", *flags, "--print-config")
    assert done.status == 2
    assert message in done.line


@pytest.mark.parametrize("flag", ["--model", "--model.name", "--batch-size", "--model.weight_options.temperature"])
def test_flags_of_a_recipe_are_known_in_all_their_forms(onebit: Onebit, flag: str) -> None:
    assert "unknown option" not in onebit("train", "digits-smoke", flag, "1", "--print_config", "--json").err


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--print_config", "--print-config"),
        ("--print-config", "--print-config"),
        ("--out=a_b", "--out=a_b"),
        ("--batch_size", "--batch_size"),
        ("print_config", "print_config"),
    ],
)
def test_dashes_and_underscores_are_the_same_in_flags_of_the_verb(word: str, meant: str) -> None:
    assert own_spelling(word, ("print-config", "out")) == meant


def test_the_recipe_is_printed_in_both_spellings(onebit: Onebit) -> None:
    one, other = (onebit("train", "digits-smoke", flag) for flag in ("--print-config", "--print_config"))
    assert other.status == 0
    assert other.out == one.out
    assert "name: digits-smoke" in one.out
