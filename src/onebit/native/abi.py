"""The structures and numbers of csrc/onebit.h, which documents them. Made by `python -m tools.abi`."""

from __future__ import annotations

import ctypes
from typing import Any

HASH = "c0b2c9521161f9a96267f171aa419dc8a77590c28e7c50a0ef74221e5e02ee36"
"""The sha256 of the header."""

Int, Long, Float, Double = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double

Pointer, Text = ctypes.c_void_p, ctypes.c_char_p

AXES = 6

BLOCK = 256

VECTOR = 16

SEGMENT_UNITS = 6

REAL_LANES = 16

PRODUCT_LANES = 32

PRODUCT_ROWS = 4

DOT_LUT_INPUTS = 5

DOT_LUT_GROUPS = 3

DOT_LUT_WORDS = 17

DOT_LUT_TABLE = 32

AMX_INPUTS = 64

AMX_ROWS = 32

AMX_BYTES = 1024

AMX_PLANES = 4

AMX_STEPS = 8

AMX_DENSE_ROWS = 256

AMX_OUTPUTS = 128

PANEL_ROWS = 32

TURN_ROWS = 128

SEGMENT = 256

MAX_TAPS = 49


def _numbers(names: str) -> dict[str, int]:
    """Those of an enum, from 1 on."""
    return {name: number for number, name in enumerate(names.split(), start=1)}


EPILOGUE = _numbers(
    "real scale shift center affine affine_int relu relu_int prelu hardtanh hardtanh_int "
    "clamp threshold sign requantize quantize sigmoid tanh silu mish gelu gelu_tanh sqrt "
    "reciprocal hardswish"
)

CODING = _numbers("bytes moments reals")

MATRIX = _numbers("f32 f16 bf16 q8_0 q1_0 panels")

NORM = _numbers("moments normalize sums propagate")

CONVOLUTION = _numbers("pack sums")

WEIGHT = _numbers("sums total")

SURROGATE = _numbers("triangle bell")

ACTIVATION = _numbers("rprelu sign")

STAGE = _numbers("values total")

DENSE = _numbers("pack sums")

UPDATE = _numbers("adam momentum flip")

KERNEL = _numbers(
    "pointwise add add_int multiply xnor dot dot_lut lut real depthwise depthwise_real grid "
    "expand levels fill copy max max_int max_bits max_bytes sum sum_int average normalize "
    "softmax product"
)

EPILOGUE_KERNELS = frozenset(
    _numbers("pointwise add add_int multiply xnor dot dot_lut lut real depthwise depthwise_real normalize product")
)

POINTWISE = frozenset(_numbers("pointwise add add_int multiply"))


def _of(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Fields of one type."""
    return [(name, kind) for name in names.split()]


class MoreStruct(ctypes.Structure):
    _fields_ = [
        *_of(Long, "place size pixel bytes"),
    ]


class EpilogueOpStruct(ctypes.Structure):
    _fields_ = [
        ("code", Long),
        *_of(Pointer, "p q more"),
        *_of(Long, "more_count stride"),
        *_of(Int, "least most"),
    ]


class CallStruct(ctypes.Structure):
    _fields_ = [
        *_of(Int, "kernel groups"),
        *_of(Long, "in_ in2 out in_size in2_size out_size scratch"),
        *_of(
            Int,
            "in_height in_width in_pixel out_height out_width out_pixel in_factor in_zero out_bytes "
            "out_zero channels table_rows table_left table_width table_byte block",
        ),
        *_of(Pointer, "rows columns"),
        *_of(Int, "taps_down taps_across"),
        ("runs", Pointer),
        *_of(Int, "run_count constant"),
        *_of(Float, "low high"),
        ("weights", Pointer),
        ("panel", Long),
        *_of(Int, "outputs tap_channels tap_words tap_lookups tap_fours real levels center planes together scaled"),
        *_of(Pointer, "tap_sums weight_units scales epilogue"),
        *_of(Int, "epilogue_count bits"),
        ("divisor", Pointer),
        *_of(Int * AXES, "box from_stride to_stride"),
        *_of(Long, "from_ to"),
    ]


class InputStruct(ctypes.Structure):
    _fields_ = [
        *_of(Long, "place size"),
        *_of(Int, "channels height width coding"),
        *_of(Pointer, "mean std"),
    ]


class OutputStruct(ctypes.Structure):
    _fields_ = [
        *_of(Long, "place size"),
    ]


class PlanStruct(ctypes.Structure):
    _fields_ = [
        ("calls", Pointer),
        ("call_count", Long),
        *_of(Int, "input_count output_count"),
        *_of(Pointer, "inputs outputs"),
        *_of(Long, "arena_units batch scratch_units"),
    ]


class BarrierStruct(ctypes.Structure):
    _fields_ = [
        *_of(Int, "arrived generation cancelled"),
    ]


class MatrixStruct(ctypes.Structure):
    _fields_ = [
        *_of(Pointer, "rows bias"),
        *_of(Long, "outputs inputs"),
        *_of(Int, "kind unused"),
    ]


class DecoderStruct(ctypes.Structure):
    _fields_ = [
        *_of(Long, "width inner layers heads kv_heads head_size context"),
        *_of(Int, "interleaved kv_bytes"),
        ("eps", Double),
        *_of(Pointer, "matrices norms rotation keys values kv_scales tokens"),
        *_of(Long, "rows position row_limit"),
        ("logits", Pointer),
        ("all", Long),
        ("taken", Int * 3),
        ("parts", Int),
        ("scratch", Pointer),
    ]


class NormStruct(ctypes.Structure):
    _fields_ = [
        ("rows", Long),
        *_of(Int, "channels bf16"),
        *_of(Double, "eps momentum"),
        *_of(Float, "least most"),
        *_of(
            Pointer,
            "x shortcut out weight bias running_mean running_var statistics gradient second_gradient "
            "kept x_gradient weight_gradient bias_gradient scratch",
        ),
    ]


class ConvolutionStruct(ctypes.Structure):
    _fields_ = [
        ("images", Long),
        *_of(Int, "channels outputs"),
        *_of(Int * 2, "in_size out_size kernel stride padding"),
        *_of(Int, "bf16 x_signs"),
        ("x_middle", Float),
        *_of(Pointer, "x gradient to"),
        ("to_stride", Long * 4),
        ("scratch", Pointer),
    ]


class SignedConvolutionStruct(ctypes.Structure):
    _fields_ = [
        ("images", Long),
        *_of(Int, "channels outputs"),
        *_of(Int * 2, "in_size out_size kernel stride padding spread"),
        *_of(Int, "x_signs bf16 turned"),
        ("bound", Float),
        *_of(Pointer, "x weight x_scale y_scale cut y scratch"),
    ]


class SurrogateStruct(ctypes.Structure):
    _fields_ = [
        *_of(Int, "bf16 kind"),
        *_of(Float, "steepness height"),
        *_of(Pointer, "x gradient to"),
    ]


class ConcreteStruct(ctypes.Structure):
    _fields_ = [
        ("bf16", Int),
        *_of(Float, "near epsilon factor"),
        *_of(Pointer, "latent noise gradient to"),
    ]


class ActivationStruct(ctypes.Structure):
    _fields_ = [
        ("rows", Long),
        *_of(Int, "channels bf16 kind"),
        *_of(Pointer, "x gradient to shift scale offset shift_gradient scale_gradient offset_gradient scratch"),
    ]


class SignsStruct(ctypes.Structure):
    _fields_ = [
        *_of(Long, "rows columns"),
        ("bf16", Int),
        ("seed", Int * 2),
        ("of_tanh", Int),
        ("steepness", Float),
        *_of(Pointer, "x panels transposed most scratch"),
    ]


class ProductStruct(ctypes.Structure):
    _fields_ = [
        *_of(Long, "rows inputs outputs most_count"),
        *_of(Int, "x_bf16 y_bf16 stream"),
        ("bound", Float),
        *_of(Pointer, "x y panels x_panels scale latent most mean signs scratch"),
    ]


class DenseGradientStruct(ctypes.Structure):
    _fields_ = [
        *_of(Long, "rows inputs outputs most_count"),
        *_of(Int, "x_bf16 gradient_bf16 pairs"),
        ("bound", Float),
        *_of(Pointer, "x gradient latent most mean signs to scratch"),
    ]


class UpdateStruct(ctypes.Structure):
    _fields_ = [
        *_of(Int, "kind nesterov"),
        *_of(Float, "kept share square_kept square_share rate epsilon decay threshold clip"),
        *_of(Pointer, "latent mean square gradient"),
    ]


class IsaStruct(ctypes.Structure):
    _fields_ = [
        ("name", Text),
        *_of(
            Int,
            "lanes lut_inputs lut_groups tile_rows tile_outputs dense_words row_units dot_fours "
            "dot_shift dot_lut byte_tiles",
        ),
        ("run", ctypes.CFUNCTYPE(Long, ctypes.POINTER(PlanStruct), Pointer, Long, Pointer, Pointer, Int, Int, Pointer)),
        ("run_norm", ctypes.CFUNCTYPE(Long, ctypes.POINTER(NormStruct), Int, Int, Int)),
        ("run_surrogate", ctypes.CFUNCTYPE(None, ctypes.POINTER(SurrogateStruct), Long, Long)),
        ("run_activation", ctypes.CFUNCTYPE(Long, ctypes.POINTER(ActivationStruct), Int, Int, Int)),
        ("run_weight_gradient", ctypes.CFUNCTYPE(Long, ctypes.POINTER(ConvolutionStruct), Int, Int, Int)),
        ("run_convolution", ctypes.CFUNCTYPE(Long, ctypes.POINTER(SignedConvolutionStruct), Int, Int, Int)),
        ("run_concrete", ctypes.CFUNCTYPE(Long, ctypes.POINTER(ConcreteStruct), Long, Long)),
        ("run_signs", ctypes.CFUNCTYPE(Long, ctypes.POINTER(SignsStruct), Int, Int, Int)),
        ("run_product", ctypes.CFUNCTYPE(Long, ctypes.POINTER(ProductStruct), Int, Int, Int)),
        ("run_dense_gradient", ctypes.CFUNCTYPE(Long, ctypes.POINTER(DenseGradientStruct), Int, Int, Int)),
        ("run_update", ctypes.CFUNCTYPE(None, ctypes.POINTER(UpdateStruct), Long, Long)),
        ("run_turn", ctypes.CFUNCTYPE(None, ctypes.POINTER(MatrixStruct), Pointer, Pointer)),
        ("run_decoder", ctypes.CFUNCTYPE(Long, ctypes.POINTER(DecoderStruct), Int, Int, Pointer)),
    ]
