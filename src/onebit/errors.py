"""Typed errors. Each message is one clear line: what was got, what was expected, the way out.

The command line prints the message of an `OnebitError` and leaves with its `exit_status`; anything else that
reaches the top is a defect of onebit and keeps its traceback.
"""

from __future__ import annotations

LONGEST_WORD, LONGEST_PART = 200, 400
"""Characters without a space, and of one part of a message, as between two semicolons."""
LONGEST_MESSAGE = 1_000
LONGEST_VALUE = 60


class OnebitError(Exception):
    """Base of every error that a user can cause and fix. Its text is one line, see `one_line`."""

    exit_status = 2

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(OnebitError):
    """A wrong option, field, type or combination."""


class WrongTypeError(UsageError, TypeError):
    """An argument of another type than a function takes."""


class UnknownNameError(UsageError):
    """An unknown name; the message offers the nearest one."""


class DataError(OnebitError):
    """A data set is missing, damaged or of another kind than stated."""


class FormatError(OnebitError):
    """A file is truncated, hostile, or not of the format it claims."""


class CheckpointError(OnebitError):
    """A checkpoint belongs to another net, or does not fit this training."""


class NotBinaryError(OnebitError):
    """Weights that were promised to be two values per output channel are not."""


class FoldError(OnebitError):
    """A net holds an operation that cannot be folded into a packed net."""


class TrainingError(OnebitError):
    """Training cannot go on, as after a loss that is not a number."""


def one_line(text: str) -> str:
    """A message as one line that a terminal can show, whatever a file or a user put into it.

    The middle of a part that is too long is left out, as the way out is at its end; what does not print is escaped.
    """
    text = " ".join(line.strip() for line in text.splitlines())
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    text = " ".join(_cut(word, LONGEST_WORD) for word in text.split(" "))
    return _cut("; ".join(_cut(part, LONGEST_PART) for part in text.split("; ")), LONGEST_MESSAGE)


def _cut(text: str, longest: int) -> str:
    head = longest * 2 // 3
    return text if len(text) <= longest else f"{text[:head]} … {text[head + 3 - longest :]}"


def short(value: object) -> str:
    """repr(value), cut to 60 characters for a message."""
    text = repr(value[:LONGEST_VALUE] if isinstance(value, (str, bytes, list, tuple)) else value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def first_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
