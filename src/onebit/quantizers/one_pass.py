"""Activations with learned numbers as one operation of a training step on the CPU: one pass forward, one backward.

The numbers of y = offset + f(x − shift) are one per channel, or one for all. Kernels compute in float32 and round what
they store. Each sum over a channel is float32 for at most 64 terms and double after that, in an order that does not
depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.torch_private import dispatch_modes, in_forward_mode, is_legacy_batched, transforms_active
from onebit.native import ActivationStruct, InstructionSet, instruction_set, run_activation

Numbers = tuple[Tensor, Tensor | None, Tensor | None]
"""Shift, scale and offset: all of shape () or all (C,), None for a scale of 1 and for an offset of 0."""
_NAMES = ("shift", "scale", "offset")
MOST_CHANNELS = 1 << 14
"""Above it, tables of numbers per channel no longer fit into the cache."""


def is_plain_training(x: Any) -> bool:
    """Whether operations on `x` do nothing but compute it and its gradient: no trace, transform or tensor subclass."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(x) is Tensor
        and not transforms_active()
        and not dispatch_modes()
        and not is_legacy_batched(x)
        and not in_forward_mode()
    )


def kernels(name: str) -> InstructionSet | None:
    """The instruction set of this processor if it has the kernel."""
    isa = instruction_set()
    return isa if isa is not None and getattr(isa, name) else None


def backward_kernels(name: str, gradient: Tensor, x: Tensor) -> InstructionSet | None:
    """The instruction set that has the kernel, for a gradient that lies in memory as x does; None for torch's code."""
    fits = not torch.is_grad_enabled() and is_plain_training(x) and is_plain_training(gradient)
    alike = fits and is_dense(x) and is_dense(gradient) and gradient.stride() == x.stride()
    return kernels(name) if alike else None


def launch(run: Callable[..., Any], isa: InstructionSet, struct: Callable[..., Any], *given: Any, **fields: Any) -> Any:
    """`run` a kernel with the fields of its struct, tensors by their addresses."""
    numbers = {name: value.data_ptr() if isinstance(value, Tensor) else value for name, value in fields.items()}
    return run(isa, struct(**numbers), *given, threads=torch.get_num_threads(), keep=fields)


def has_rows(x: Tensor) -> bool:
    """Whether these are numbers for the kernels, with the channels of a pixel as neighbors in memory."""
    return _has_numbers(x) and x.is_contiguous(memory_format=row_format(x))


def row_format(x: Tensor) -> torch.memory_format:
    """The memory format that `has_rows` asks for."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def is_dense(x: Tensor) -> bool:
    """Whether these are numbers for the kernels that fill their memory, in either order."""
    return has_rows(x) or (_has_numbers(x) and x.is_contiguous())


def _has_numbers(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.dtype in (torch.bfloat16, torch.float32)
        and not x.is_neg()
    )


def is_vector(p: Tensor | None) -> bool:
    """Whether the kernels take such a parameter or buffer."""
    return p is None or (
        type(p) in (Tensor, nn.Parameter)
        and p.device.type == "cpu"
        and p.dtype == torch.float32
        and p.dim() == 1
        and p.is_contiguous()
    )


def summed(values: Tensor, number: Tensor) -> Tensor:
    """The sum of values (N, C, …) or (C,) over what a number of shape () or (C,) serves, in the dtype of the number."""
    if number.dim() == 0:
        return values.sum(dtype=number.dtype)
    if values.dim() == 1:
        return values.to(number.dtype)
    return values.sum([axis for axis in range(values.dim()) if axis != 1], dtype=number.dtype)


def activated(kind: int, x: Tensor, numbers: Numbers) -> Tensor | None:
    """y by a kernel, without a gradient; None where the operations of torch must run.

    Args:
        kind: `RPRELU` or `SHIFTED_SIGN` of `onebit.native`.
    """
    isa = _instruction_set(x, numbers)
    if isa is None:
        return None
    y = torch.empty_like(x)
    _run(isa, kind, x, numbers, to=y)
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
    """Those of `activated` to x and to the numbers: the rule of a `Surrogate` whose numbers are `kind` and `by_torch`.

    Args:
        by_torch: (gradient, x, shift, scale, offset) -> the same in operations of torch, which have gradients.
    """
    numbers = shift, scale, offset
    plain = not torch.is_grad_enabled() and is_plain_training(gradient) and gradient.dtype == x.dtype
    isa = _instruction_set(x, numbers) if plain else None
    if isa is None:
        return by_torch(gradient, x, *numbers)
    if gradient.stride() != x.stride():
        gradient = torch.empty_like(x).copy_(gradient)
    through = torch.empty_like(x)
    found = [None if p is None else torch.empty_like(p) for p in numbers]
    to = {f"{name}_gradient": tensor for name, tensor in zip(_NAMES, found, strict=True)}
    _run(isa, kind, x, numbers, gradient=gradient, to=through, **to)
    return through, *found


def _instruction_set(x: Tensor, numbers: Numbers) -> InstructionSet | None:
    """The kernels if they have the meaning of the operations of torch, else None."""
    if not is_plain_training(x) or x.numel() == 0:
        return None
    if numbers[0].dim() == 0:
        channels: tuple[int, ...] = ()
        fits = is_dense(x)
    else:
        channels = x.shape[1:2]
        fits = x.dim() in (2, 4) and has_rows(x) and x.shape[1] <= MOST_CHANNELS
    fits = fits and all(p is None or (p.shape == channels and is_vector(p.view(-1))) for p in numbers)
    return kernels("run_activation") if fits else None


def _run(isa: InstructionSet, kind: int, x: Tensor, numbers: Numbers, **tensors: Tensor | None) -> None:
    tensors |= zip(_NAMES, numbers, strict=True)
    channels = x.shape[1] if numbers[0].dim() else 1
    sizes = {"rows": x.numel() // channels, "channels": channels, "bf16": x.dtype == torch.bfloat16}
    launch(run_activation, isa, ActivationStruct, kind=kind, x=x, **sizes, **tensors)
