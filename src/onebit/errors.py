"""Typed errors. Each message is one clear line: what was got, what was expected, the way out.

The command line prints the message of an `OnebitError` and leaves with its `exit_status`; anything else that
reaches the top is a defect of onebit and keeps its traceback.
"""

from __future__ import annotations


class OnebitError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_status = 2


class UsageError(OnebitError):
    """A wrong option, field, type or combination."""


class WrongTypeError(UsageError, TypeError):
    """An argument of another type than a function takes."""


class UnknownNameError(UsageError):
    """A name that stands in no table; the message offers the nearest one."""


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


def first_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
