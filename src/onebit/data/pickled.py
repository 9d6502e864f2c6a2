"""Reader of pickled CIFAR files: a dictionary of one uint8 array and lists of numbers and names.

A pickle may call any function of Python. Here names come from an allow-list, and each call of numpy becomes a
description of the call, so that no code from outside this module runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.files import read_regular
from onebit.errors import DataError, first_line

MAX_INSTRUCTIONS = 1_000_000
"""The training file of CIFAR-100 has half as many."""
MAX_OTHERS = 50
"""Instructions that are not in `_VALUES`; CIFAR files have 24. With more, hashing nested tuples could take forever."""
_VALUES = {
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
    *("BININT", "BININT1", "BININT2", "MARK", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "FRAME"),
}
_ALLOWED = {
    *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"),
    *("numpy ndarray", "numpy dtype", "_codecs encode"),
}


def read_pickled(path: Path, *, largest: int) -> dict[str, Any]:
    """Read the dictionary of arrays, lists, numbers and strings in a pickled CIFAR file of at most `largest` bytes."""
    content = read_regular(path, largest=largest)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in texts
            _check_instructions(content)
            entries = _Unpickler(io.BytesIO(content), encoding="latin-1").load()
        # Python 3 may write the keys as bytes
        names = (key if isinstance(key, str) else key.decode("latin-1") for key in entries)
        return dict(zip(names, map(_array, entries.values()), strict=True))
    except Exception as error:  # a damaged pickle makes the unpickler raise almost anything
        raise DataError(f"{path}: is not a pickled CIFAR file: {first_line(error)}") from None


def _check_instructions(content: bytes) -> None:
    """Refuse a pickle that could take much more memory than its own size, or endless time."""
    others = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        others += opcode.name not in _VALUES
        # memory is taken for all memo entries below the largest
        memo = int(argument or 0) if opcode.name == "LONG_BINPUT" else 0
        if max(count, memo) >= MAX_INSTRUCTIONS or others > MAX_OTHERS:
            raise ValueError("it has too many instructions or memo entries")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {f'{module} {name}'!r}")
        return _Described(f"{module} {name}")


class _Described:
    """A call of a name of numpy: the name, the arguments, and the state set later."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> _Described:
        return _Described(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _array(value: Any) -> Any:
    """The uint8 array that `value` describes; any other value as it is."""
    if not isinstance(value, _Described):
        return value
    _, shape, dtype, fortran_order, content = value.state
    if dtype.arguments[:1] != ("u1",) or fortran_order:
        raise ValueError("an array is not of unsigned bytes in C order")
    if isinstance(content, _Described):  # protocols 0 to 2 of Python 3 write bytes as a call of _codecs.encode
        content = content.arguments[0]
    if isinstance(content, str):
        content = content.encode("latin-1")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
