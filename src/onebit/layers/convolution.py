"""Convolutions of a training step on the CPU with weights of one magnitude per output, as binary ones are.

With AMX, in its tile registers. In float32, weights are multiplied as signs: a float32 is the sum of three bfloat16, so
these products are exact; of the nine products in a weight gradient, three below its rounding are left out. In bfloat16,
forward and the input gradient stay torch's, with the same bits, unless signs of real inputs are taken: these are never
written.

With AVX-512 of AMD, by lookups of 16-bit sums of integers. Values of an image, and gradients to an output in some rows,
become integers of 13 bits and a sign in bfloat16, of 26 in float32, relative to the largest of them. The weight
gradient is torch's if inputs have more than two values.

Results do not depend on the number of threads. In tiles they have no more error than those of torch. A value that is
not finite may make its neighbours, its image, or all weights of an output NaN.

`convolved` falls back to torch's convolution for inputs that are not in channels_last, with a bias, groups or dilation,
above 49 taps or 2^18 products of a sum, below 16 channels in float32 or by lookups, with one tap and a stride by
lookups, on a GPU, compiled, traced, on other processors, and without the native library (`ONEBIT_NATIVE=0`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onebit.native import (
    MAX_TAPS,
    ConvolutionStruct,
    InstructionSet,
    SignedConvolutionStruct,
    run_convolution,
    run_weight_gradient,
)
from onebit.quantizers.base import Surrogate, autocast_dtype, clipped
from onebit.quantizers.cpu_kernels import is_plain_training, kernels, launch
from onebit.quantizers.surrogates import signed, surrogate_gradient

_MAX_SIGNED = 96
"""In bfloat16, for the gradient to inputs of which the signs are taken; above it, torch's kernel is as fast."""
_MIN_REAL = 32
"""In float32, for the gradient to the weights if inputs are real; below it, torch's kernel is as fast."""
_MIN_CHANNELS = 16
"""In float32, and of lookups; below it, tiles are half empty."""
_MAX_SUM = 1 << 18
"""Products of integers of 13 bits whose sum fits 32."""


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int,
    *, signs: bool = False, two_values: bool = False, surrogate: tuple[Any, ...] | None = None,
) -> Tensor:  # fmt: skip
    """`torch.nn.functional.conv2d` with arguments as in `torch.nn.Conv2d`: two numbers for each window.

    Args:
        signs, two_values: whether all of x is ±1, or one of any two values.
        surrogate: convolve `signed(x, *surrogate)` instead of x, without writing and saving the signs if possible.
    """
    isa, bf16, scale = convolution_kernels(x, weight, bias, padding, dilation, groups), _becomes_bf16(x), None
    lookups = isa is not None and isa.dot_lut
    if lookups and max(stride) > 1 and weight.shape[2] * weight.shape[3] == 1:
        isa = None  # most pixels are not read, but would get tables
    by_torch = bf16 and not lookups  # the forward pass, unless signs of inputs are taken
    if isa is not None and (not by_torch or surrogate is not None):
        least, most = weight.detach().float().flatten(1).abs().aminmax(dim=1)
        scale = most if torch.equal(least, most) else None
        isa = isa if scale is not None or by_torch else None
    if surrogate is not None and (scale is None or x.dtype != autocast_dtype(x)):
        x, scale, surrogate, signs = signed(x, *surrogate), None if by_torch else scale, None, True
    if isa is None:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    x, weight = x.to(autocast_dtype(x)), weight.to(autocast_dtype(x))
    if scale is None:
        y = F.conv2d(x.detach(), weight.detach(), None, stride, padding)
    else:
        sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
        size = [(inputs + 2 * outside - taps) // step + 1 for inputs, taps, step, outside in sizes]
        window: dict[str, Any] = {"stride": tuple(stride), "padding": tuple(padding)}
        y = _of_signs(isa, x, weight, size, y_scale=scale, x_signs=signs or surrogate is not None, **window)
    numbers = isa, stride, padding, scale, signs, two_values, surrogate
    return Surrogate.apply(x, y, _gradients, numbers, weight)


def convolution_kernels(
    x: Any, weight: Tensor, bias: Tensor | None, padding: Any, dilation: Any, groups: int
) -> InstructionSet | None:
    """The instruction set with the kernel, or None where torch must run."""
    fits = (
        is_plain_training(x)
        and bias is None
        and not isinstance(padding, str)
        and tuple(dilation) == (1, 1)
        and groups == 1
        and x.dim() == 4
        and x.shape[1] == weight.shape[1]
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and weight.shape[2] * weight.shape[3] <= MAX_TAPS
        and max(x.shape[3], max(weight.shape[:2]) * weight.shape[2] * weight.shape[3]) <= _MAX_SUM
        and all(
            0 <= outside < taps <= size + 2 * outside
            for size, taps, outside in zip(x.shape[2:], weight.shape[2:], padding, strict=True)
        )
        and (_becomes_bf16(weight) if _becomes_bf16(x) else _fits_float32(x, weight))
    )
    isa = kernels("run_convolution") if fits else None
    if isa is None or isa.byte_tiles:
        return isa
    return isa if isa.dot_lut and min(weight.shape[:2]) >= _MIN_CHANNELS else None


def _fits_float32(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and autocast_dtype(x) == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.layout == torch.strided
        and min(weight.shape[:2]) >= _MIN_CHANNELS
    )


def _becomes_bf16(x: Tensor) -> bool:
    """Whether a convolution computes in bfloat16 on the CPU."""
    if x.device.type != "cpu" or x.layout != torch.strided:
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16 and x.dtype in (torch.bfloat16, torch.float32)
    return x.dtype == torch.bfloat16


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, isa: InstructionSet, stride: Any, padding: Any, scale: Tensor | None,
    signs: bool, two_values: bool, surrogate: tuple[Any, ...] | None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients to x and to the weight, where they are needed; scale: of weights that are multiplied as signs."""
    # hooks of saved tensors may have changed their dtype
    plain = is_plain_training(gradient) and x.dtype == gradient.dtype == weight.dtype and not torch.is_grad_enabled()
    bf16, real = weight.dtype == torch.bfloat16, surrogate is not None
    to_x = to_weight = None
    if isa.dot_lut:
        by_signs = max(stride) == 1  # tables of the zeros between pixels would take longer
    else:
        by_signs = scale is not None and (not bf16 or max(weight.shape[:2]) <= _MAX_SIGNED)
    if plain and x.requires_grad and by_signs:
        back = tuple(taps - 1 - outside for taps, outside in zip(weight.shape[2:], padding, strict=True))
        fields: dict[str, Any] = {"padding": back, "spread": tuple(stride), "turned": True, "x_scale": scale}
        if surrogate is not None and surrogate[0] is clipped:
            fields |= {"cut": x.contiguous(memory_format=torch.channels_last), "bound": surrogate[1][x.dtype]}
            surrogate = None
        to_x = _of_signs(isa, gradient, weight, x.shape[2:], **fields)
    tiles = isa.byte_tiles and (bf16 or min(weight.shape[:2]) >= _MIN_REAL)
    if plain and weight.requires_grad and (tiles or signs or real):
        to_weight = _weight_gradient(gradient, x, weight, isa, stride, padding, x_signs=real)
    elif plain and weight.requires_grad and two_values and isa.dot_lut:
        to_weight = _two_valued_gradient(gradient, x, weight, isa, stride, padding)
    mask = [x.requires_grad and to_x is None, weight.requires_grad and to_weight is None, False]
    if any(mask):
        values = x if surrogate is None or to_weight is not None else signed(x, *surrogate)
        rest: Any = (1, 1), False, (0, 0), 1
        by_torch = torch.ops.aten.convolution_backward(gradient, values, weight, None, stride, padding, *rest, mask)
        to_x, to_weight = by_torch[0] if to_x is None else to_x, by_torch[1] if to_weight is None else to_weight
    if surrogate is not None and to_x is not None:
        to_x = surrogate_gradient(to_x, x, *surrogate)
    return to_x, to_weight


def _of_signs(
    isa: InstructionSet, x: Tensor, weight: Tensor, size: Any, *, stride: tuple[int, ...] = (1, 1),
    spread: tuple[int, ...] = (1, 1), **fields: Any,
) -> Tensor:  # fmt: skip
    """A convolution with the signs of a weight.

    Args:
        size: of the output.
        spread: the distance of the pixels of x, with zeros between them.
        fields: others of `SignedConvolutionStruct`.
    """
    x, weight = (part.detach().contiguous(memory_format=torch.channels_last) for part in (x, weight.float()))
    outputs = weight.shape[1 if fields.get("turned") else 0]
    y = torch.empty(len(x), outputs, *size, dtype=x.dtype, memory_format=torch.channels_last)
    sizes = {"images": len(x), "channels": x.shape[1], "outputs": outputs, "kernel": tuple(weight.shape[2:])}
    sizes |= {"in_size": tuple(x.shape[2:]), "out_size": tuple(size)}
    sizes |= {"stride": stride, "spread": spread, "bf16": x.dtype == torch.bfloat16}
    launch(run_convolution, isa, SignedConvolutionStruct, x=x, weight=weight, y=y, **sizes, **fields)
    return y


def _two_valued_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, isa: InstructionSet, stride: Any, padding: Any
) -> Tensor:
    """That of x = middle ± half: half times that of the signs, and middle times that of ones."""
    least, most = (float(end) for end in x.permute(0, 2, 3, 1).aminmax())
    middle = (least + most) / 2
    of_signs = _weight_gradient(gradient, x, weight.float(), isa, stride, padding, x_middle=middle)
    total = gradient.permute(0, 2, 3, 1).sum(0, keepdim=True).permute(0, 3, 1, 2).float()
    of_ones = torch.ops.aten.convolution_backward(
        *(total, total.new_ones(1, 1, *x.shape[2:]), weight[:, :1].float(), None),
        *(stride, padding, (1, 1), False, (0, 0), 1, [False, True, False]),
    )[1]
    return (of_signs * ((most - least) / 2) + of_ones * middle).to(weight.dtype)


def _weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, isa: InstructionSet, stride: Any, padding: Any, **fields: Any
) -> Tensor:
    """The gradient to a weight; fields: others of `ConvolutionStruct`."""
    x, gradient = (part.contiguous(memory_format=torch.channels_last) for part in (x, gradient))
    to = torch.empty_like(weight, dtype=torch.float32)
    sizes = {"images": x.shape[0], "channels": x.shape[1], "outputs": weight.shape[0], "to_stride": to.stride()}
    sizes |= {"in_size": x.shape[2:], "out_size": gradient.shape[2:], "kernel": weight.shape[2:]}
    sizes |= {"stride": tuple(stride), "padding": tuple(padding), "bf16": x.dtype == torch.bfloat16}
    launch(run_weight_gradient, isa, ConvolutionStruct, x=x, gradient=gradient, to=to, **sizes, **fields)
    return to.to(weight.dtype)
