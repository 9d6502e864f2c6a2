"""The compiled library: where it is, what it can run on this processor, and how its plans lie in memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from onebit.common.tables import resolve
from onebit.errors import UsageError

_SUFFIXES = (".so", ".dylib", ".dll", ".pyd")
_Pointer, _Int, _Long = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class Line(ctypes.Structure):
    """`ob_line` of csrc/onebit.h."""

    _fields_ = (("code", _Long), ("p", _Pointer), ("q", _Pointer))


class Step(ctypes.Structure):
    """`ob_step` of csrc/onebit.h, where its fields are explained."""

    _fields_ = (
        *((name, _Int) for name in ("step", "groups")),
        *((name, _Long) for name in ("least", "most")),
        *((name, _Long) for name in ("in_", "in2", "out", "in_size", "in2_size", "out_size", "scratch")),
        *((name, _Int) for name in ("in_height", "in_width", "in_pixel", "out_height", "out_width", "out_pixel")),
        *((name, _Int) for name in ("channels", "tall", "left", "table_width")),
        *((name, _Pointer) for name in ("rows", "columns")),
        *((name, _Int) for name in ("taps_down", "taps_across")),
        ("runs", _Pointer),
        *((name, _Int) for name in ("run_count", "number")),
        ("weights", _Pointer),
        ("panel", _Long),
        *((name, _Int) for name in ("outputs", "tap_channels", "tap_words", "tap_lookups")),
        *((name, _Int) for name in ("real", "centre", "together")),
        *((name, _Pointer) for name in ("tap_sums", "weight_units", "lines")),
        *((name, _Int) for name in ("line_count", "bits")),
        ("divisor", _Pointer),
        *((name, _Int * 3) for name in ("box", "from_stride", "to_stride")),
        *((name, _Long) for name in ("from_", "to")),
    )


class Plan(ctypes.Structure):
    """`ob_plan` of csrc/onebit.h."""

    _fields_ = (
        ("steps", _Pointer),
        ("step_count", _Long),
        *((name, _Int) for name in ("channels", "height", "width", "byte_pixel")),
        *((name, _Pointer) for name in ("mean", "std")),
        *((name, _Long) for name in ("input", "output", "output_size", "bytes", "bytes_size")),
        *((name, _Long) for name in ("arena_units", "batch", "scratch_units")),
    )


class Meeting(ctypes.Structure):
    """`ob_meeting` of csrc/onebit.h."""

    _fields_ = tuple((name, _Int) for name in ("arrived", "round", "over"))


_RUN = ctypes.CFUNCTYPE(_Long, ctypes.POINTER(Plan), _Pointer, _Long, _Pointer, _Pointer, _Int, _Int, _Pointer)


class _Isa(ctypes.Structure):
    """`ob_isa` of csrc/onebit.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        *(
            (name, _Int)
            for name in ("lanes", "lut_inputs", "lut_groups", "tile_rows", "tile_outputs", "dense_words", "bytes")
        ),
        ("run", _RUN),
    )


class InstructionSet(NamedTuple):
    """What packed nets can be run with.

    lanes: outputs in a panel of weights. lut_inputs, lut_groups: inputs of a lookup, lookups in a word.
    tile_rows, tile_outputs, dense_words: see csrc/products.h. bytes: see csrc/onebit.h.
    run: (plan, images, count, arena, output, part, parts, meeting) -> 1 if the sign of a NaN was taken; it holds no
        lock of Python.
    """

    name: str
    lanes: int
    lut_inputs: int
    lut_groups: int
    tile_rows: int
    tile_outputs: int
    dense_words: int
    bytes: int
    run: Callable[..., int]


@cache
def _load() -> ctypes.CDLL | None:
    """The library; None where it is not installed.

    Raises:
        UsageError: it is of another version of onebit, or does not load.
    """
    folder = files("onebit.native")
    path = next((str(file) for suffix in _SUFFIXES if (file := folder / f"kernels{suffix}").is_file()), None)
    if path is None:
        return None
    try:
        library = ctypes.CDLL(path)
        sizes = [library.ob_size(which) for which in range(4)]
        library.ob_instruction_set.restype = ctypes.POINTER(_Isa)
        library.ob_chain.argtypes, library.ob_chain.restype = [ctypes.c_uint64] * 2, ctypes.c_uint64
    except (OSError, AttributeError) as error:
        raise UsageError(f"{path} does not load: {error}; install onebit again, or set ONEBIT_NATIVE=0") from None
    if sizes != [ctypes.sizeof(structure) for structure in (Step, Plan, _Isa, Meeting)]:
        raise UsageError(f"{path} belongs to another version of onebit: install it again, or set ONEBIT_NATIVE=0")
    return library


def chain(x: int, steps: int) -> int:
    """x · 6364136223846793005 + 1442695040888963407 modulo 2⁶⁴, `steps` times, each after the other: a clock.

    Raises:
        UsageError: the library is not installed, or not this version's.
    """
    library = _load()
    if library is None:
        raise UsageError("the native library is not installed; install onebit where a C compiler is")
    return int(library.ob_chain(x, steps))


@cache
def instruction_sets() -> Mapping[str, InstructionSet]:
    """Those of this processor by name, the best last; none where the library is not installed.

    Raises:
        UsageError: the library is of another version of onebit, or does not load.
    """
    library = _load()
    if library is None:
        return {}
    found: dict[str, InstructionSet] = {}
    while isa := library.ob_instruction_set(len(found)):
        entry = isa.contents
        found[entry.name.decode()] = InstructionSet(
            entry.name.decode(),
            entry.lanes,
            entry.lut_inputs,
            entry.lut_groups,
            entry.tile_rows,
            entry.tile_outputs,
            entry.dense_words,
            entry.bytes,
            entry.run,
        )
    return found


def instruction_set() -> InstructionSet | None:
    """The best of this processor, or that of ONEBIT_ISA; None without the library, or with ONEBIT_NATIVE=0.

    Raises:
        UsageError: ONEBIT_ISA names one that is not there.
    """
    if os.environ.get("ONEBIT_NATIVE") == "0":
        return None
    known = instruction_sets()
    if asked := os.environ.get("ONEBIT_ISA"):
        return resolve(known, asked, kind="instruction set of this machine")
    return known[list(known)[-1]] if known else None
