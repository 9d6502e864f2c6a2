"""Arrays of numbers as input of a packed net: .npy and .csv files. Loads no torch."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from onebit.common.files import open_regular
from onebit.common.pictures import MODES, STANDARD_INPUT
from onebit.errors import DataError, UsageError, first_line
from onebit.packed import InputSpec
from onebit.runtime.input_batch import is_gray

MAX_BYTES = 1 << 30
"""Largest file of samples."""
SUFFIXES = (".npy", ".csv")
NUMBER = re.compile(r'[\s"]*[-+]?(\.?\d|nan|inf)', re.IGNORECASE)
"""How a number begins, unlike most names of columns."""


def is_image(spec: InputSpec) -> bool:
    """Whether an input is an image of uint8 pixels, as image files hold it."""
    return spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[0] in MODES


def described(spec: InputSpec) -> str:
    """An input as text: `float32 (20)`."""
    return f"{spec.dtype} ({', '.join(map(str, spec.shape))})"


def read_samples(path: Path, spec: InputSpec) -> np.ndarray:
    """The samples in a file, or on standard input (CSV): (N, *shape) in the dtype of the net's input.

    A .npy file holds one sample or (N, …) of them, gray images also without the channel axis. A .csv file holds one
    sample per row, in C order, and may begin with a line of names. As in `onebit.run`, a float32 net takes no .npy file
    of integers.
    """
    if path == STANDARD_INPUT:
        found = _of_text(sys.stdin.buffer, "standard input", spec)
    else:
        with open_regular(path) as file:
            is_array = path.suffix.lower() == ".npy"
            found = _of_array(path, spec) if is_array else _of_text(file, str(path), spec)
    with np.errstate(over="ignore", invalid="ignore"):
        samples = found.astype(spec.dtype)
    if not np.isfinite(samples).all() or (spec.dtype == "uint8" and (samples != found).any()):
        expected = "finite numbers" if spec.dtype == "float32" else "whole numbers from 0 to 255"
        raise UsageError(f"{path}: got other values, the net takes {expected}")
    return samples


def _of_array(path: Path, spec: InputSpec) -> np.ndarray:
    try:  # mapped: a header that claims more than the file holds takes no memory
        found: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises almost anything for a damaged file
        raise DataError(f"{path}: not a .npy file of numbers ({first_line(error)[:100]})") from None
    if spec.sizes == "any" and found.ndim > 1:
        spec = replace(spec, shape=(spec.shape[0], *found.shape[-2:]))
    if found.shape == spec.shape or (is_gray(spec) and found.ndim in (2, 3) and found.shape[-2:] == spec.shape[1:]):
        found = found.reshape(-1, *spec.shape)
    kinds = "f" if spec.dtype == "float32" else "uif"  # integers are raw pixels, not prepared values
    if found.dtype.kind not in kinds or found.shape[1:] != spec.shape or not len(found):
        raise UsageError(f"{path}: got {found.dtype} {found.shape}, the net takes {described(spec)}, or (N, …) of them")
    return found


def _of_text(file: BinaryIO, name: str, spec: InputSpec) -> np.ndarray:
    """Samples of a CSV text: a row each."""
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: expected at most {MAX_BYTES:,} bytes")
    # names of columns may be in Windows-1252, numbers are ASCII
    lines = [line for line in data.decode("utf-8-sig", errors="replace").splitlines() if line.strip()]
    first = lines[0] if lines else ""
    delimiter = next((mark for mark in ("\t", ";") if mark in first), ",")
    numbers = lines if any(map(NUMBER.match, first.split(delimiter))) else lines[1:]
    try:
        rows = np.loadtxt(numbers or ["none"], delimiter=delimiter, ndmin=2, comments=None, quotechar='"')
        return rows.reshape(len(rows), *spec.shape)
    except ValueError as error:
        raise DataError(
            f"{name}: expected rows of {math.prod(spec.shape)} numbers ({first_line(error)[:100]})"
        ) from None
