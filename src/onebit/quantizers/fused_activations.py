"""Activations y = offset + f(x − shift) with learned parameters on the CPU: one pass forward, one backward.

Parameters are one per channel, or one for all. Kernels compute in float32 and round what they store. Each sum over a
channel is float32 for at most 64 terms and double after that, in an order that does not depend on the number of
threads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onebit.native import ActivationStruct, InstructionSet, run_activation
from onebit.quantizers.cpu_kernels import (
    MAX_CHANNELS,
    has_rows,
    is_dense,
    is_plain_training,
    is_vector,
    kernels,
    launch,
)

Parameters = tuple[Tensor, Tensor | None, Tensor | None]
"""Shift, scale and offset: all of shape () or all (C,), None for a scale of 1 and an offset of 0."""
_NAMES = ("shift", "scale", "offset")


def summed(values: Tensor, parameter: Tensor) -> Tensor:
    """The sum of values (N, C, …) or (C,) to the shape () or (C,) and the dtype of a parameter."""
    if parameter.dim() == 0:
        return values.sum(dtype=parameter.dtype)
    if values.dim() == 1:
        return values.to(parameter.dtype)
    return values.sum([axis for axis in range(values.dim()) if axis != 1], dtype=parameter.dtype)


def activated(kind: int, x: Tensor, parameters: Parameters) -> Tensor | None:
    """y by a kernel, without a gradient; None where torch must run.

    Args:
        kind: `RPRELU` or `SHIFTED_SIGN` of `onebit.native`.
    """
    isa = _instruction_set(x, parameters)
    if isa is None:
        return None
    y = torch.empty_like(x)
    _run(isa, kind, x, parameters, to=y)
    return y


def activation_gradients(
    gradient: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor | None,
    offset: Tensor | None,
    kind: int,
    by_torch: Callable[..., tuple[Tensor | None, ...]],
) -> tuple[Tensor | None, ...]:
    """The gradients of `activated` to x and to the parameters, as the rule of a `Surrogate`.

    Args:
        by_torch: (gradient, x, shift, scale, offset) -> the same in operations of torch, which have gradients.
    """
    parameters = shift, scale, offset
    plain = not torch.is_grad_enabled() and is_plain_training(gradient) and gradient.dtype == x.dtype
    isa = _instruction_set(x, parameters) if plain else None
    if isa is None:
        return by_torch(gradient, x, *parameters)
    if gradient.stride() != x.stride():
        gradient = torch.empty_like(x).copy_(gradient)
    to_x = torch.empty_like(x)
    found = [None if p is None else torch.empty_like(p) for p in parameters]
    to = {f"{name}_gradient": tensor for name, tensor in zip(_NAMES, found, strict=True)}
    _run(isa, kind, x, parameters, gradient=gradient, to=to_x, **to)
    return to_x, *found


def _instruction_set(x: Tensor, parameters: Parameters) -> InstructionSet | None:
    """The instruction set with the kernels, or None where torch must run."""
    if not is_plain_training(x) or x.numel() == 0:
        return None
    if parameters[0].dim() == 0:
        channels: tuple[int, ...] = ()
        fits = is_dense(x)
    else:
        channels = x.shape[1:2]
        fits = x.dim() in (2, 4) and has_rows(x) and x.shape[1] <= MAX_CHANNELS
    fits = fits and all(p is None or (p.shape == channels and is_vector(p.view(-1))) for p in parameters)
    return kernels("run_activation") if fits else None


def _run(isa: InstructionSet, kind: int, x: Tensor, parameters: Parameters, **tensors: Tensor | None) -> None:
    tensors |= zip(_NAMES, parameters, strict=True)
    channels = x.shape[1] if parameters[0].dim() else 1
    sizes = {"rows": x.numel() // channels, "channels": channels, "bf16": x.dtype == torch.bfloat16}
    launch(run_activation, isa, ActivationStruct, kind=kind, x=x, **sizes, **tensors)
