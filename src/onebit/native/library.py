"""The compiled library: finding it, its instruction sets on this processor, and its structures in memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.native.layout import MOST_AXES

_SUFFIXES = (".so", ".dylib", ".dll", ".pyd")
_Pointer, _Int, _Long = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


def _fields(kind: Any, names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names.split())


class EpilogueStruct(ctypes.Structure):
    """`ob_epilogue_op` of csrc/onebit.h, which documents the fields of all structures."""

    _fields_ = (
        ("code", _Long),
        *_fields(_Pointer, "p q more"),
        *_fields(_Long, "more_count stride"),
        *_fields(_Int, "least most"),
    )


class CallStruct(ctypes.Structure):
    """`ob_call` of csrc/onebit.h."""

    _fields_ = (
        *_fields(_Int, "kernel groups"),
        *_fields(_Long, "in_ in2 out in_size in2_size out_size scratch"),
        *_fields(
            _Int, "in_height in_width in_pixel out_height out_width out_pixel in_factor in_zero out_bytes out_zero"
        ),
        *_fields(_Int, "channels table_rows table_left table_width table_byte block"),
        *_fields(_Pointer, "rows columns"),
        *_fields(_Int, "taps_down taps_across"),
        ("runs", _Pointer),
        *_fields(_Int, "run_count constant"),
        *_fields(ctypes.c_float, "low high"),
        ("weights", _Pointer),
        ("panel", _Long),
        *_fields(_Int, "outputs tap_channels tap_words tap_lookups tap_fours real levels center planes together"),
        *_fields(_Pointer, "tap_sums weight_units epilogue"),
        *_fields(_Int, "epilogue_count bits"),
        ("divisor", _Pointer),
        *_fields(_Int * MOST_AXES, "box from_stride to_stride"),
        *_fields(_Long, "from_ to"),
    )


class PlanStruct(ctypes.Structure):
    """`ob_plan` of csrc/onebit.h."""

    _fields_ = (
        ("calls", _Pointer),
        ("call_count", _Long),
        *_fields(_Int, "channels height width coding output_count"),
        *_fields(_Pointer, "mean std outputs"),
        *_fields(_Long, "input input_size arena_units batch scratch_units"),
    )


class LayerStruct(ctypes.Structure):
    """`ob_layer` of csrc/onebit.h."""

    _fields_ = (
        *_fields(_Int, "groups outputs terms channels in_height in_width out_height out_width"),
        *_fields(_Pointer, "rows columns"),
        *_fields(_Int, "taps_down taps_across padding signs"),
    )


class ParametersStruct(ctypes.Structure):
    """`ob_parameters` of csrc/onebit.h."""

    _fields_ = _fields(_Pointer, "words scale center bias")


class NormStruct(ctypes.Structure):
    """`ob_norm` of csrc/onebit.h."""

    _fields_ = (
        ("rows", _Long),
        *_fields(_Int, "channels bf16"),
        *_fields(ctypes.c_double, "eps momentum"),
        *_fields(ctypes.c_float, "least most"),
        *_fields(_Pointer, "x shortcut out weight bias running_mean running_var statistics"),
        *_fields(_Pointer, "gradient second_gradient kept x_gradient weight_gradient bias_gradient scratch"),
    )


class SurrogateStruct(ctypes.Structure):
    """`ob_surrogate` of csrc/onebit.h."""

    _fields_ = (
        *_fields(_Int, "bf16 kind"),
        *_fields(ctypes.c_float, "steepness height"),
        *_fields(_Pointer, "x gradient to"),
    )


class ConvolutionStruct(ctypes.Structure):
    """`ob_convolution` of csrc/onebit.h."""

    _fields_ = (
        ("images", _Long),
        *_fields(_Int, "channels outputs"),
        *_fields(_Int * 2, "in_size out_size kernel stride padding"),
        *_fields(_Pointer, "x gradient to"),
        ("to_stride", _Long * 4),
        ("scratch", _Pointer),
    )


class ActivationStruct(ctypes.Structure):
    """`ob_activation` of csrc/onebit.h."""

    _fields_ = (
        ("rows", _Long),
        *_fields(_Int, "channels bf16 kind"),
        *_fields(_Pointer, "x gradient to shift scale offset"),
        *_fields(_Pointer, "shift_gradient scale_gradient offset_gradient scratch"),
    )


class ConcreteStruct(ctypes.Structure):
    """`ob_concrete` of csrc/onebit.h."""

    _fields_ = (
        ("bf16", _Int),
        *_fields(ctypes.c_float, "near epsilon factor"),
        *_fields(_Pointer, "latent noise gradient to"),
    )


class BarrierStruct(ctypes.Structure):
    """`ob_barrier` of csrc/onebit.h."""

    _fields_ = _fields(_Int, "arrived generation cancelled")


_RUN = ctypes.CFUNCTYPE(_Long, ctypes.POINTER(PlanStruct), _Pointer, _Long, _Pointer, _Pointer, _Int, _Int, _Pointer)
_RUN_LAYER = ctypes.CFUNCTYPE(
    _Long, ctypes.POINTER(LayerStruct), _Pointer, _Long, ctypes.POINTER(ParametersStruct), *[_Pointer] * 2, _Int, _Int
)
_RUN_NORM = ctypes.CFUNCTYPE(_Long, ctypes.POINTER(NormStruct), _Int, _Int, _Int)
_RUN_SURROGATE = ctypes.CFUNCTYPE(None, ctypes.POINTER(SurrogateStruct), _Long, _Long)
_RUN_ACTIVATION = ctypes.CFUNCTYPE(_Long, ctypes.POINTER(ActivationStruct), _Int, _Int, _Int)
_RUN_WEIGHT_GRADIENT = ctypes.CFUNCTYPE(_Long, ctypes.POINTER(ConvolutionStruct), _Int, _Int, _Int)
_RUN_CONCRETE = ctypes.CFUNCTYPE(_Long, ctypes.POINTER(ConcreteStruct), _Long, _Long)


class _IsaStruct(ctypes.Structure):
    """`ob_isa` of csrc/onebit.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        *_fields(_Int, "lanes lut_inputs lut_groups tile_rows tile_outputs dense_words dot_fours dot_shift"),
        *_fields(_Int, "dot_lut byte_tiles"),
        ("run", _RUN),
        ("run_layer", _RUN_LAYER),
        ("run_norm", _RUN_NORM),
        ("run_surrogate", _RUN_SURROGATE),
        ("run_activation", _RUN_ACTIVATION),
        ("run_weight_gradient", _RUN_WEIGHT_GRADIENT),
        ("run_concrete", _RUN_CONCRETE),
    )


class InstructionSet(NamedTuple):
    """The kernels for one instruction set.

    lanes: outputs per panel of weights. lut_inputs, lut_groups: inputs per lookup, lookups per word.
    tile_rows, tile_outputs, dense_words: see csrc/matmul.h. dot_fours, dot_shift: see csrc/dot.h.
    dot_lut: outputs per panel of lookups of 16-bit sums; 0 if there are none, or if the processor is slow at them.
    byte_tiles: see csrc/onebit.h.
    run: (plan, images, count, arena, answers, part, parts, barrier) -> 1 if the net took the sign of a NaN, else 0; it
        releases Python's global lock.
    run_layer, run_norm, run_surrogate, run_activation, run_weight_gradient, run_concrete: see csrc/onebit.h; the
        latter five are false where there is no such kernel.
    """

    name: str
    lanes: int
    lut_inputs: int
    lut_groups: int
    tile_rows: int
    tile_outputs: int
    dense_words: int
    dot_fours: int
    dot_shift: int
    dot_lut: int
    byte_tiles: int
    run: Callable[..., int]
    run_layer: Callable[..., int]
    run_norm: Any = None
    run_surrogate: Any = None
    run_activation: Any = None
    run_weight_gradient: Any = None
    run_concrete: Any = None


@cache
def _load() -> ctypes.CDLL | None:
    """The library, None if not installed; UsageError if it does not load or belongs to another version of onebit."""
    folder = files("onebit.native")
    path = next((str(file) for suffix in _SUFFIXES if (file := folder / f"kernels{suffix}").is_file()), None)
    if path is None:
        return None
    try:
        library = ctypes.CDLL(path)
        sizes = [library.ob_size(which) for which in range(10)]
        library.ob_is_supported.restype = ctypes.c_int
        library.ob_chain.argtypes, library.ob_chain.restype = [ctypes.c_uint64] * 2, ctypes.c_uint64
    except (OSError, AttributeError) as error:
        raise UsageError(f"{path} does not load: {error}; reinstall onebit or set ONEBIT_NATIVE=0") from None
    structures: tuple[type[ctypes.Structure], ...] = CallStruct, PlanStruct, _IsaStruct, BarrierStruct, LayerStruct
    structures += NormStruct, SurrogateStruct, ConvolutionStruct, ActivationStruct, ConcreteStruct
    if sizes != [ctypes.sizeof(structure) for structure in structures]:
        raise UsageError(f"{path} belongs to another version of onebit; reinstall onebit or set ONEBIT_NATIVE=0")
    return library


def chain(x: int, count: int) -> int:
    """`count` dependent multiply-adds modulo 2⁶⁴, to measure the clock; UsageError without the library."""
    library = _load()
    if library is None:
        raise UsageError("the native library is not installed; reinstall onebit with a C compiler available")
    return int(library.ob_chain(x, count))


@cache
def instruction_sets() -> Mapping[str, InstructionSet]:
    """The instruction sets of this processor by name, the best last; empty if the library is not installed.

    Raises:
        UsageError: the library belongs to another version of onebit or does not load.
    """
    library = _load()
    if library is None:
        return {}
    known = compiled_sets(library).items()
    supported = {name: isa for index, (name, isa) in enumerate(known) if library.ob_is_supported(index)}
    if library.ob_looks_up_quickly():
        return supported
    return {name: isa._replace(dot_lut=0) for name, isa in supported.items()}


def compiled_sets(library: ctypes.CDLL) -> Mapping[str, InstructionSet]:
    """The instruction sets of the library by name, also those that this processor lacks."""
    library.ob_instruction_set.restype = ctypes.POINTER(_IsaStruct)
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
