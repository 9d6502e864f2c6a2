"""Reader of the one kind of pickle that CIFAR comes in: a dictionary of a uint8 array and lists of numbers and names.

A pickle is a program for a stack machine that may call any function of Python, so it is never run by `pickle`: this
machine knows the instructions that these files consist of, and no call. The two names of numpy that describe an array
are kept as words.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.files import read_regular
from onebit.data.images import Images
from onebit.errors import DataError

MOST_INSTRUCTIONS = 1_000_000
"""Of a pickle; the training file of CIFAR-100, with a name for each image, has half as many."""
_ARRAY = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY = "numpy ndarray"
_DTYPE = "numpy dtype"
_TEXT = {"BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
_NUMBERS = {"BININT", "BININT1", "BININT2"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A global name, which stands for itself."""

    name: str


@dataclass(eq=False)
class _Described:
    """What a call of a global name would have made: the name, its arguments, and the state given to it later."""

    name: str
    arguments: Any
    state: Any = None


class _Mark:
    """The place on the stack that a MARK leaves."""


def read_pickled(path: Path, *, largest: int) -> dict[str, Any]:
    """The dictionary in a pickle of CIFAR.

    Args:
        path: the file.
        largest: bytes that it may have at most.

    Returns:
        Its entries: uint8 arrays, lists, numbers, strings (of bytes, decoded as latin-1) and None.

    Raises:
        DataError: unreadable, too large, or a pickle of anything else; nothing in it is ever called.
    """
    try:
        content = read_regular(path, largest=largest)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in texts that are refused anyway
            found = _run(content)
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise ValueError(f"got a {type(found).__name__}, expected a dictionary of names")
        return {key: _array(value) if isinstance(value, _Described) else value for key, value in found.items()}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: is no pickled CIFAR file, and no other pickle is read: {what}") from None


def _run(content: bytes) -> Any:
    """What the program leaves on the stack.

    Raises:
        ValueError: an instruction that CIFAR files do not contain; it and others: one that does not fit the stack.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        """Take what stands above the last mark, and the mark."""
        place = next(i for i in range(len(stack) - 1, -2, -1) if i < 0 or isinstance(stack[i], _Mark))
        if place < 0:
            raise ValueError(f"{name} without a mark")
        taken = stack[place + 1 :]
        del stack[place:]
        return taken

    def top(kind: type) -> Any:
        if not isinstance(stack[-1], kind):
            raise ValueError(f"{name} of a {type(stack[-1]).__name__}")
        return stack[-1]

    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if count == MOST_INSTRUCTIONS:
            raise ValueError(f"it has more than {MOST_INSTRUCTIONS:,} instructions")
        if name in _TEXT:
            stack.append(argument.decode("latin-1") if isinstance(argument, bytes) else argument)
        elif name in _NUMBERS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_Mark())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            count = _TUPLES[name]
            if count > len(stack):
                raise ValueError(f"{name} of {len(stack)} values")
            stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
        elif name == "GLOBAL":
            if argument not in (*_ARRAY, _NDARRAY, _DTYPE):
                raise ValueError(f"it names {argument!r}")
            stack.append(_Name(argument))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = _Described(top(_Name).name, arguments)
        elif name == "BUILD":
            state = stack.pop()
            top(_Described).state = state
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise ValueError(f"it holds the instruction {name}")
    raise ValueError("it ends early")


def _array(described: _Described) -> Images:
    """The uint8 array that is described, in memory of its own.

    Raises:
        ValueError: anything but a plain uint8 array in C order with as many bytes as its shape says.
    """
    if described.name not in _ARRAY or described.arguments[0] != _Name(_NDARRAY):
        raise ValueError(f"{described.name!r} does not describe an array")
    _, shape, dtype, fortran_order, content = described.state
    if not isinstance(dtype, _Described) or dtype.name != _DTYPE or dtype.arguments[0] != "u1" or fortran_order:
        raise ValueError("an array is not of unsigned bytes in C order")
    return np.frombuffer(content.encode("latin-1"), np.uint8).reshape(shape).copy()
