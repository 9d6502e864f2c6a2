"""The kernels of a training step, see csrc/training and the structures of csrc/onebit.h.

Results do not depend on the number of threads. keep: owns the memory that a structure points to; threads may outlive an
interrupted call.
"""

from __future__ import annotations

import ctypes
import math
from itertools import pairwise

from onebit.native import abi
from onebit.native.abi import (
    ActivationStruct,
    ConcreteStruct,
    ConvolutionStruct,
    DenseGradientStruct,
    NormStruct,
    ProductStruct,
    SignedConvolutionStruct,
    SignsStruct,
    SurrogateStruct,
    UpdateStruct,
)
from onebit.native.library import InstructionSet
from onebit.native.thread_pool import run_shares, run_stages

MAX_TAPS = abi.MAX_TAPS
RPRELU, SHIFTED_SIGN = abi.ACTIVATION["rprelu"], abi.ACTIVATION["sign"]
ADAM, MOMENTUM, FLIP = abi.UPDATE.values()
TRIANGLE, BELL = abi.SURROGATE["triangle"], abi.SURROGATE["bell"]
_OF_VALUES = {SurrogateStruct: "run_surrogate", ConcreteStruct: "run_concrete", UpdateStruct: "run_update"}
PART_VALUES, PART_PRODUCTS, PART_DENSE = 1 << 18, 1 << 26, 1 << 24
"""The least number of values, of products in tiles, or of products of a dense layer, per thread."""


def run_norm(isa: InstructionSet, struct: NormStruct, *, threads: int = 1, keep: object = None) -> None:
    """BatchNorm of values (rows, channels), then a sum and bounds; the gradients if `struct` has one to the output."""
    stages = list(abi.NORM.values())[slice(2, 4) if struct.gradient else slice(2)]
    run_stages(isa.run_norm, struct, stages, parts=_parts(threads, struct.rows * struct.channels), keep=keep)


def run_activation(isa: InstructionSet, struct: ActivationStruct, *, threads: int = 1, keep: object = None) -> None:
    """An activation with learned parameters per channel; the gradients if `struct` has one to the output."""
    stages = list(abi.STAGE.values())[: 2 if struct.gradient else 1]
    run_stages(isa.run_activation, struct, stages, parts=_parts(threads, struct.rows * struct.channels), keep=keep)


def run_weight_gradient(
    isa: InstructionSet, struct: ConvolutionStruct, *, threads: int = 1, keep: object = None
) -> None:
    """The gradient of the weights of a convolution."""
    parts = _parts(threads, _products(struct), PART_PRODUCTS)
    run_stages(isa.run_weight_gradient, struct, list(abi.WEIGHT.values()), parts=parts, unit=1, keep=keep)


def run_convolution(
    isa: InstructionSet, struct: SignedConvolutionStruct, *, threads: int = 1, keep: object = None
) -> None:
    """A convolution with the signs of weights."""
    parts = _parts(threads, _products(struct), PART_PRODUCTS)
    run_stages(isa.run_convolution, struct, list(abi.CONVOLUTION.values()), parts=parts, unit=1, keep=keep)


def _products(struct: ConvolutionStruct | SignedConvolutionStruct) -> int:
    pixels: int = struct.images * struct.out_size[0] * struct.out_size[1]
    return pixels * struct.channels * struct.outputs * struct.kernel[0] * struct.kernel[1]


def panel_words(isa: InstructionSet, rows: int, columns: int) -> int:
    """Words of the panels of signs (rows, columns)."""
    return -(-rows // isa.lanes) * isa.lanes * -(-columns // (isa.lut_inputs * isa.lut_groups))


def sign_blocks(isa: InstructionSet, rows: int) -> int:
    """Blocks of rows of signs, which begin both a panel and a word."""
    return -(-rows // math.lcm(isa.lanes, isa.lut_inputs * isa.lut_groups))


def run_signs(isa: InstructionSet, struct: SignsStruct, *, threads: int = 1, keep: object = None) -> None:
    """The signs of latents (rows, columns) as bits in panels."""
    parts = _parts(threads, struct.rows * struct.columns)
    run_stages(isa.run_signs, struct, [1], parts=parts, unit=1, keep=keep)


def run_product(isa: InstructionSet, struct: ProductStruct, *, threads: int = 1, keep: object = None) -> None:
    """Rows of inputs times rows of signs."""
    parts = _parts(threads, struct.rows * struct.inputs * struct.outputs, PART_DENSE)
    run_stages(isa.run_product, struct, [1], parts=parts, unit=1, keep=keep)


def run_dense_gradient(
    isa: InstructionSet, struct: DenseGradientStruct, *, threads: int = 1, keep: object = None
) -> None:
    """The gradient of the weights of a dense layer."""
    parts = _parts(threads, struct.rows * struct.inputs * struct.outputs, PART_DENSE)
    run_stages(isa.run_dense_gradient, struct, list(abi.DENSE.values()), parts=parts, unit=1, keep=keep)


def run_values(
    isa: InstructionSet,
    struct: SurrogateStruct | ConcreteStruct | UpdateStruct,
    values: int,
    *,
    threads: int = 1,
    keep: object = None,
) -> bool:
    """The surrogate gradient of the sign, or signs of binary concrete weights, or their slopes, or an update.

    Returns whether a drawn sign may not be ±1.
    """
    kernel = getattr(isa, _OF_VALUES[type(struct)])
    struct.owners = keep
    parts = _parts(threads, values)
    bounds = [values * part // parts for part in range(parts + 1)]
    return any(list(run_shares(lambda share: kernel(ctypes.byref(struct), *share), list(pairwise(bounds)))))


def _parts(threads: int, work: int, least: int = PART_VALUES) -> int:
    return max(1, min(threads, work // least))
