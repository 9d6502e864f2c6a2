"""Arrays of numbers as input of a packed net: .npy and .csv files. Loads no torch."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onebit.cli.output import say
from onebit.common.files import open_regular, standard_input
from onebit.common.picture_files import NOT_REGULAR, STANDARD_INPUT
from onebit.errors import DataError, UsageError, first_line
from onebit.packed import InputSpec
from onebit.runtime.inputs import is_gray, refusal

MOST_BYTES = 1 << 30
"""Largest file of samples."""
SUFFIXES = (".npy", ".csv")


def is_image(spec: InputSpec) -> bool:
    """Whether an input is made of the pixels of an image."""
    return spec.dtype == "uint8" and len(spec.shape) == 3


def in_words(spec: InputSpec) -> str:
    """An input in a few words: `float32 (20)`."""
    return f"{spec.dtype} ({', '.join(map(str, spec.shape))})"


def read_samples(path: Path, spec: InputSpec) -> np.ndarray:
    """The samples in a file, or on standard input (CSV): (N, *shape) in the dtype of the net's input.

    A .npy file holds one sample or (N, …) of them, of gray images also without the axis of the channel. A .csv file
    holds one in each row, its numbers in C order, and may begin with a line of names. A float32 net
    does not take a .npy file of integers, as in `onebit.run`.
    """
    if path == STANDARD_INPUT:
        data = standard_input().read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise DataError(f"standard input: expected at most {MOST_BYTES:,} bytes")
        return _of_text(data, "standard input", spec)
    if not path.is_file():  # a pipe would block forever
        raise UsageError(f"{str(path)!r}: {NOT_REGULAR if path.exists() else 'no such file'}")
    if path.suffix.lower() == ".npy":
        return _of_array(path, spec)
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DataError(f"{path}: expected at most {MOST_BYTES:,} bytes")
    return _of_text(data, str(path), spec)


def _of_array(path: Path, spec: InputSpec) -> np.ndarray:
    try:
        # mapped: a header that claims more than the file holds takes no memory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            found: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises almost anything for a damaged file
        raise DataError(f"{path}: not a .npy file of numbers ({first_line(error)[:100]})") from None
    if found.dtype.kind not in "uif":
        raise DataError(f"{path}: not a .npy file of numbers")
    if found.shape == spec.shape or (is_gray(spec) and found.ndim in (2, 3) and found.shape[-2:] == spec.shape[1:]):
        found = found.reshape(-1, *spec.shape)
    if found.shape[1:] != spec.shape or not len(found):
        raise UsageError(f"{path}: got {found.dtype} {found.shape}, the net takes {in_words(spec)}, or (N, …) of them")
    if spec.dtype == "float32" and found.dtype.kind != "f":  # such as pixels: the net takes prepared values
        raise UsageError(f"{path}: {refusal(spec, str(found.dtype), found.shape)}")
    return _as_input(np.asarray(found), str(path), spec)


def _of_text(data: bytes, name: str, spec: InputSpec) -> np.ndarray:
    """Samples of a CSV text: a row each."""
    if b"\0" in data:
        raise DataError(f"{name}: not a text of numbers")
    text = data.decode("utf-8-sig", errors="replace")  # names of columns may be in Windows-1252, numbers are ASCII
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ("\t", ";") if mark in first), ",")
    expected = math.prod(spec.shape)
    rows: list[list[float]] = []
    try:
        for line, words in enumerate(filter(None, csv.reader(io.StringIO(text), delimiter=delimiter))):
            if line == 0 and not any(map(_is_number, words)):
                if len({*words}) < len(words):
                    say(f"note: {name}: the first row is taken for names of columns, not for a sample")
                continue
            numbers = _numbers(words)
            where = f"{name}, row {len(rows) + 1}"
            if numbers is None:
                wrong = next(word for word in words if not _is_number(word))
                raise UsageError(f"{where}: {wrong[:40]!r} is not a number")
            if len(numbers) != expected:
                raise UsageError(f"{where}: got {len(numbers)} numbers, the net takes {in_words(spec)}")
            rows.append(numbers)
    except csv.Error as error:
        raise DataError(f"{name}: not CSV ({error})") from None
    if not rows:
        raise UsageError(
            f"{name}: holds no rows of numbers, separated by commas, semicolons or tabs; the net takes {in_words(spec)}"
        )
    if len(rows) > 1 and (begin := rows[0][0]) in (0, 1) and rows[0] == [begin + i for i in range(expected)]:
        say(
            f"note: {name}: the first row, numbers from {begin:.0f} on, is a sample; "
            "delete it if these are names of columns"
        )
    return _as_input(np.array(rows, np.float64).reshape(len(rows), *spec.shape), name, spec)


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def _is_number(word: str) -> bool:
    return _numbers([word]) is not None


def _as_input(samples: np.ndarray, name: str, spec: InputSpec) -> np.ndarray:
    """Samples in the dtype of the net's input; UsageError for values that it cannot hold."""
    if spec.dtype == "uint8":
        with np.errstate(invalid="ignore"):
            made = samples.astype(np.uint8)
        if (made != samples).any():
            raise UsageError(f"{name}: the net takes whole numbers from 0 to 255, got others")
        return made
    with np.errstate(over="ignore"):
        made = samples.astype(np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(made))):
        row = int(np.argwhere(~np.isfinite(made))[0][0]) + 1
        raise UsageError(f"{name}: {bad} values are NaN, infinite or too large for float32, the first in sample {row}")
    return made
