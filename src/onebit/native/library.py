"""Loads the compiled library; its instruction sets on this processor."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.native.abi import HASH, IsaStruct

_SUFFIXES = (".so", ".dylib", ".dll", ".pyd")


class InstructionSet(NamedTuple):
    """The kernels for one instruction set.

    lanes: outputs per panel of weights. lut_inputs, lut_groups: inputs per lookup, lookups per word.
    tile_rows, tile_outputs, dense_words: see csrc/matmul.h. row_units: csrc/lut_rows.h. byte_tiles: csrc/onebit.h.
    dot_fours, dot_shift: csrc/dot.h.
    dot_lut: outputs per panel of lookups of 16-bit sums; 0 without them, or if the processor is slow at them.
    run: (plan, images, count, arena, answers, part, parts, barrier) -> 1 if the net took the sign of a NaN, else 0;
        releases the GIL.
    run_norm, run_surrogate, run_activation, run_weight_gradient, run_convolution, run_concrete: see csrc/onebit.h;
        false if there is no such kernel.
    """

    name: str
    lanes: int
    lut_inputs: int
    lut_groups: int
    tile_rows: int
    tile_outputs: int
    dense_words: int
    row_units: int
    dot_fours: int
    dot_shift: int
    dot_lut: int
    byte_tiles: int
    run: Callable[..., int]
    run_norm: Any = None
    run_surrogate: Any = None
    run_activation: Any = None
    run_weight_gradient: Any = None
    run_convolution: Any = None
    run_concrete: Any = None
    run_signs: Any = None
    run_product: Any = None
    run_dense_gradient: Any = None
    run_update: Any = None
    run_turn: Any = None
    run_decoder: Any = None


@cache
def _load() -> ctypes.CDLL | None:
    """The library; None if not installed; UsageError if it belongs to another version of onebit."""
    # an editable install has the library in another folder
    files = (Path(folder, f"kernels{suffix}") for folder in sys.modules[__package__].__path__ for suffix in _SUFFIXES)
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.ob_abi.restype = ctypes.c_char_p
    if library.ob_abi().decode() != HASH:
        raise UsageError(f"{path} belongs to another version of onebit; reinstall onebit or set ONEBIT_NATIVE=0")
    return library


@cache
def instruction_sets() -> Mapping[str, InstructionSet]:
    """The instruction sets of this processor by name, the best last; empty without the library.

    Raises:
        UsageError: the library belongs to another version of onebit or does not load.
    """
    if (library := _load()) is None:
        return {}
    slow: dict[str, Any] = {} if library.ob_looks_up_quickly() else {"dot_lut": 0}
    known = enumerate(compiled_sets(library).items())
    return {name: isa._replace(**slow) for index, (name, isa) in known if library.ob_is_supported(index)}


def compiled_sets(library: ctypes.CDLL) -> Mapping[str, InstructionSet]:
    """The instruction sets of the library by name, including those that this processor lacks."""
    library.ob_instruction_set.restype = ctypes.POINTER(IsaStruct)
    known: dict[str, InstructionSet] = {}
    while isa := library.ob_instruction_set(len(known)):
        name, *others = (getattr(isa.contents, field) for field in InstructionSet._fields)
        known[name.decode()] = InstructionSet(name.decode(), *others)
    return known


def instruction_set() -> InstructionSet | None:
    """The best instruction set, or the one ONEBIT_ISA names; None without the library or with ONEBIT_NATIVE=0.

    Raises:
        UnknownNameError: ONEBIT_ISA names one that this processor or the library lacks.
    """
    if os.environ.get("ONEBIT_NATIVE") == "0":
        return None
    known = instruction_sets()
    if name := os.environ.get("ONEBIT_ISA"):
        return resolve(known, name, kind="instruction set of this machine")
    return known[list(known)[-1]] if known else None
