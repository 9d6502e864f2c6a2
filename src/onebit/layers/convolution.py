"""Convolutions of a training step on the CPU, with the weight gradient by a native kernel.

For small convolutions in bfloat16, torch often spends more time on the weight gradient than on forward and the input
gradient. Those two stay torch's, with the same bits. The weight gradient has float32 sums, rounded to bfloat16 once, as
in torch, and does not depend on the number of threads. A value that is not finite may make other weights of the same
channel or output NaN, too.

`convolved` falls back to torch's convolution in float32, for inputs that are not in channels_last, with a bias, groups
or dilation, above 128 channels or 49 taps, on a GPU, compiled, traced, on a processor without tiles of bfloat16 (AMX),
and without the native library (`ONEBIT_NATIVE=0`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onebit.native import MAX_TAPS, ConvolutionStruct, InstructionSet, run_weight_gradient
from onebit.quantizers.base import Surrogate
from onebit.quantizers.cpu_kernels import is_plain_training, kernels, launch

_MAX_CHANNELS = 128
"""Above it, torch's kernel is as fast."""


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """`torch.nn.functional.conv2d` with arguments as in `torch.nn.Conv2d`: two numbers for each window."""
    isa = _instruction_set(x, weight, bias, padding, dilation, groups)
    if isa is None:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    x, weight = x.to(torch.bfloat16), weight.to(torch.bfloat16)
    y = F.conv2d(x.detach(), weight.detach(), None, stride, padding)
    return Surrogate.apply(x, y, _gradients, (isa, stride, padding), weight)


def _instruction_set(
    x: Any, weight: Tensor, bias: Tensor | None, padding: Any, dilation: Any, groups: int
) -> InstructionSet | None:
    """The instruction set with the kernel, or None where torch must run."""
    fits = (
        is_plain_training(x)
        and torch.is_grad_enabled()
        and weight.requires_grad
        and _becomes_bf16(x)
        and _becomes_bf16(weight)
        and bias is None
        and not isinstance(padding, str)
        and tuple(dilation) == (1, 1)
        and groups == 1
        and x.dim() == 4
        and x.shape[1] == weight.shape[1]
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and max(weight.shape[:2]) <= _MAX_CHANNELS
        and weight.shape[2] * weight.shape[3] <= MAX_TAPS
    )
    return kernels("run_weight_gradient") if fits else None


def _becomes_bf16(x: Tensor) -> bool:
    """Whether a convolution computes in bfloat16 on the CPU."""
    if x.device.type != "cpu" or x.layout != torch.strided:
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16 and x.dtype in (torch.bfloat16, torch.float32)
    return x.dtype == torch.bfloat16


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, isa: InstructionSet, stride: Any, padding: Any
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients to x and to the weight, where they are needed."""
    # hooks of saved tensors may have changed their dtype
    plain = is_plain_training(gradient) and x.dtype == gradient.dtype == torch.bfloat16
    by_kernel = weight.requires_grad and plain and not torch.is_grad_enabled()
    to_x = to_weight = None
    mask = [x.requires_grad, weight.requires_grad and not by_kernel, False]
    if any(mask):
        window = (stride, padding, (1, 1), False, (0, 0), 1)
        to_x, to_weight, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *window, mask)
    if by_kernel:
        to_weight = _weight_gradient(gradient, x, weight, isa, stride, padding)
    return to_x, to_weight


def _weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, isa: InstructionSet, stride: Any, padding: Any
) -> Tensor:
    x, gradient = (part.contiguous(memory_format=torch.channels_last) for part in (x, gradient))
    to = torch.empty_like(weight, dtype=torch.float32)
    sizes = {"images": x.shape[0], "channels": x.shape[1], "outputs": weight.shape[0], "to_stride": to.stride()}
    sizes |= {"in_size": x.shape[2:], "out_size": gradient.shape[2:], "kernel": weight.shape[2:]}
    sizes |= {"stride": tuple(stride), "padding": tuple(padding)}
    launch(run_weight_gradient, isa, ConvolutionStruct, x=x, gradient=gradient, to=to, **sizes)
    return to.to(weight.dtype)
