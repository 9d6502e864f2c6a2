"""The words of a command line as flags with values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, get_args

from onebit.common.custom_names import is_custom
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError
from onebit.recipe.sections import ARGUMENTS, flag_types

SWITCH, OPTIONAL, VALUE = "no value", "a value or none", "a value"
"""What an option of a verb takes."""
_BOOLEAN = "a value that may be left out, which means true"

CUSTOM_FIELDS = (
    *("name", "weight_quantizer", "input_quantizer", "weight_options", "input_options"),
    *("value", "init", "coding", "real_first", "real_last"),
)
"""Fields of the recipe that binarize a custom model; any other `--model.NAME` is an argument of it."""
NAMED_PARTS = ("model", "optimizer", "schedule")
"""Parts that `--model NAME` picks by name while `--model.widths ...` sets an option."""
OPTION_FIELDS = ("model.weight_options", "model.input_options", ARGUMENTS)
"""Fields that hold arguments by name: `--model.weight_options.temperature 1e-10`."""

_FLAG = re.compile(r"-(?![\d.])")
"""How a flag begins; -1 and -.5 are values."""


class Word(NamedTuple):
    """A flag with its value, or ("", word) for a word that is not a flag; `typed` is how it was written."""

    name: str
    value: str | None
    typed: tuple[str, ...]


def flag_names() -> list[str]:
    """`seed`, `optimizer.lr`, …: every field that is a flag."""
    return list(flag_types())


def read_words(words: Sequence[str], *, options: Mapping[str, str] = {}, short: Mapping[str, str] = {}) -> list[Word]:
    """Split a command line into flags with their values, and other words.

    Every field of a recipe is a flag. Dashes and underscores in a flag are equivalent. If `--model` names a custom
    model, `--model.NAME` is an argument of it.

    Args:
        options: other flags -> SWITCH, OPTIONAL or VALUE.
        short: `-b` -> the name of its flag; the value may be attached.
    """
    known = {name.replace("-", "_"): (name, takes) for name, takes in options.items()}
    fields = flag_types()
    custom_model = names_custom_model(words)
    found: list[Word] = []
    i = 0
    while i < len(words):
        start, word = i, words[i]
        i += 1
        if not _FLAG.match(word):
            found.append(Word("", word, (word,)))
            continue
        flag, equals, text = word.partition("=")
        if flag[:2] in short:
            flag, name = word[:2], short[word[:2]]
            value = word[2:].removeprefix("=") or None
        else:
            name, value = flag[2:].replace("-", "_"), text if equals else None
            name = f"{name}.name" if name in NAMED_PARTS else name
        of_model = name.removeprefix("model.")
        if custom_model and of_model != name and of_model.isidentifier() and of_model not in CUSTOM_FIELDS:
            name = f"{ARGUMENTS}.{of_model}"
        is_argument = name.rpartition(".")[0] in OPTION_FIELDS
        if not (flag in short or flag.startswith("--")) or not (name in fields or name in known or is_argument):
            near = did_you_mean(flag, [f"--{known}" for known in (*fields, *options)], or_all=False)
            raise UsageError(f"unknown option {flag}{near or ' (onebit train --help)'}")
        if name in fields:
            takes = _BOOLEAN if bool in (fields[name], *get_args(fields[name])) else VALUE
        else:
            name, takes = known.get(name, (name, _BOOLEAN if name.startswith(ARGUMENTS) else VALUE))
        if takes == SWITCH and value is not None:
            raise UsageError(f"{flag} takes no value, got {value!r}")
        if takes != SWITCH and value is None:
            if i < len(words) and not _FLAG.match(words[i]):
                value, i = words[i], i + 1
            elif takes == VALUE:
                raise UsageError(f"{flag} needs a value")
            elif takes == _BOOLEAN:
                value = "true"
        found.append(Word(name, value, tuple(words[start:i])))
    return found


def names_custom_model(words: Sequence[str]) -> bool:
    """Whether a command line names a custom model with `--model` or `-a`."""
    after_flag = (after for word, after in pairwise(words) if word in ("--model", "-a", "--model.name"))
    return any(map(is_custom, (*after_flag, *(word for word in words if word.startswith("--model=")))))


def flag_text(value: Any) -> str:
    """A setting as a user types it after its flag; `onebit.common.fields.read` reads it back.

    Example:
        >>> flag_text(20.0), flag_text((8, 4)), flag_text("adam"), flag_text(None)
        ('20', '[8, 4]', 'adam', 'null')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)
