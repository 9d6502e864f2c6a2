"""Words of a command line, read once."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest

from onebit.errors import UsageError
from onebit.recipe import Recipe, build_recipe
from onebit.recipe.flags import SWITCH, VALUE, read_words


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--print_config"], [("print-config", None)]),
        (["--print-config"], [("print-config", None)]),
        (["--out=a_b"], [("out", "a_b")]),
        (["--batch-size", "3"], [("batch_size", "3")]),
        (["print_config"], [("", "print_config")]),
        (["mnist-fast", "--compile", "--seed", "3"], [("", "mnist-fast"), ("compile", "true"), ("seed", "3")]),
        (["--compile", "no", "mnist-fast"], [("compile", "no"), ("", "mnist-fast")]),
        (["--optimizer.lr", "-1", "--name=-b"], [("optimizer.lr", "-1"), ("name", "-b")]),
    ],
)
def test_words_are_flags_with_values_and_other_words(words: list[str], found: list[tuple[str, str | None]]) -> None:
    read = read_words(words, options={"print-config": SWITCH, "out": VALUE})
    assert [(word.name, word.value) for word in read] == found
    assert [typed for word in read for typed in word.typed] == words


def test_short_flags_have_their_value_attached_or_after() -> None:
    for words in (["-b7"], ["-b=7"], ["-b", "7"]):
        assert [word[:2] for word in read_words(words, short={"-b": "batch_size"})] == [("batch_size", "7")]


def recipe_of(words: list[str]) -> Recipe:
    return build_recipe({}, {word.name: word.value for word in read_words(words)})


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (["--optimiser.lr", "3"], "'--optimizer.lr'"),
        (["--optimizer.lr"], "needs a value"),
        (["--optimizer.lr", "-1"], "optimizer.lr"),
        (["-s", "12"], "-s"),
        (["--", "12"], "--"),
    ],
)
def test_a_bad_flag_is_refused(words: list[str], noun: str) -> None:
    with pytest.raises(UsageError, match=noun):
        recipe_of(words)


@pytest.mark.parametrize(
    ("words", "field", "expected"),
    [
        (["--schedule=linear"], "schedule.name", "linear"),
        (["--batch-size", "64"], "batch_size", 64),
        (["--optimizer.latent_clip", "null"], "optimizer.latent_clip", None),
        (["--augmentation.flip"], "augmentation.flip", True),
        (["--model.last-norm", "--seed", "4"], "model.last_norm", True),
        (["--augmentation.flip", "false"], "augmentation.flip", False),
        (["--seed", "1", "--seed", "2"], "seed", 2),
        (["--model.widths=784, 100, 10"], "model.widths", (784, 100, 10)),
        (["--model.widths", "null"], "model.widths", None),
        (["--schedule.milestones", "2.5"], "schedule.milestones", (2.5,)),
        (["--continual.against", "ste,bop"], "continual.against", ("ste", "bop")),
    ],
)
def test_flags_have_short_and_dashed_forms(words: list[str], field: str, expected: Any) -> None:
    assert attrgetter(field)(recipe_of(words)) == expected
