"""Typed errors. Each message is one clear line: what was given, what was expected, and how to fix it.

The command line prints the message of any error in one line and exits with status 2; `ONEBIT_DEBUG=1` shows the
traceback.
"""

from __future__ import annotations

MAX_WORD_LENGTH, MAX_PART_LENGTH = 200, 400
"""Characters of one word of a message, and of one part of it between semicolons."""
MAX_MESSAGE_LENGTH = 1_000
MAX_VALUE_LENGTH = 60


class OnebitError(Exception):
    """Base of every error that a user can cause and fix. Its text is one line, see `one_line`."""

    exit_status = 2

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(OnebitError):
    """A wrong option, field, type or combination."""


class WrongTypeError(UsageError, TypeError):
    """An argument of a type that the function does not take."""


class UnknownNameError(UsageError):
    """An unknown name; the message offers the nearest one."""


class DataError(OnebitError):
    """A data set is missing, damaged, or not of the stated kind."""


class FormatError(OnebitError):
    """A file is truncated, hostile, or not of the format it claims."""


class CheckpointError(OnebitError):
    """A checkpoint belongs to another net, or does not match this training run."""


class NotBinaryError(OnebitError):
    """Weights that should take two values per output channel take others."""


class FoldError(OnebitError):
    """A net has an operation that cannot be folded into a packed net."""


class TrainingError(OnebitError):
    """Training cannot continue, for example after a loss that is not a number."""


def one_line(text: str) -> str:
    """A message as one line that is safe to print on a terminal, whatever a file or a user put into it.

    Characters that do not print are escaped. The middle of a part that is too long is left out; its end is kept.
    """
    text = escaped(" ".join(line.strip() for line in text.splitlines()))
    text = " ".join(shortened(word, MAX_WORD_LENGTH) for word in text.split(" "))
    return shortened("; ".join(shortened(part, MAX_PART_LENGTH) for part in text.split("; ")), MAX_MESSAGE_LENGTH)


def escaped(text: str) -> str:
    """A text whose characters that do not print, as a name of a file may have, are escaped.

    Example:
        >>> print(escaped("a\\x1b[2J.png"))
        a\\x1b[2J.png
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, longest: int) -> str:
    """A text of at most `longest` characters; the middle of a longer one is left out.

    Example:
        >>> shortened("a text of some length", 12)
        'a text o…gth'
    """
    head = longest * 2 // 3
    return text if len(text) <= longest else f"{text[:head]}…{text[head + 1 - longest :]}"


def short(value: object) -> str:
    """repr(value), cut to 60 characters for a message."""
    text = repr(value[: 2 * MAX_VALUE_LENGTH] if isinstance(value, (str, bytes, list, tuple)) else value)
    return shortened(text, MAX_VALUE_LENGTH)


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
