"""Calls of the native kernels of a training step, and the tensors that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.torch_private import dispatch_modes, in_forward_mode, is_legacy_batched, transforms_active
from onebit.native import InstructionSet, instruction_set

MAX_CHANNELS = 1 << 14
"""Above it, tables of numbers per channel no longer fit into the cache."""


def is_plain_training(x: Any) -> bool:
    """Whether no trace, transform, mode or tensor subclass follows operations on `x`."""
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
    """The instruction set of this processor, or None without this kernel."""
    isa = instruction_set()
    return isa if isa is not None and getattr(isa, name) else None


def backward_kernels(name: str, gradient: Tensor, x: Tensor) -> InstructionSet | None:
    """The instruction set with the kernel, or None where torch must run: it needs a gradient in the layout of x."""
    fits = not torch.is_grad_enabled() and is_plain_training(x) and is_plain_training(gradient)
    alike = fits and is_dense(x) and is_dense(gradient) and gradient.stride() == x.stride()
    return kernels(name) if alike else None


def launch(run: Callable[..., Any], isa: InstructionSet, struct: Callable[..., Any], *given: Any, **fields: Any) -> Any:
    """Run a kernel with the fields of its struct; tensors are passed by address."""
    fields = {name: value.resolve_neg() if isinstance(value, Tensor) else value for name, value in fields.items()}
    numbers = {name: value.data_ptr() if isinstance(value, Tensor) else value for name, value in fields.items()}
    return run(isa, struct(**numbers), *given, threads=torch.get_num_threads(), keep=fields)


def has_rows(x: Tensor) -> bool:
    """Whether the kernels take `x`, with the channels of a pixel adjacent in memory."""
    return has_numbers(x) and x.is_contiguous(memory_format=row_format(x))


def row_format(x: Tensor) -> torch.memory_format:
    """The memory format that `has_rows` requires."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def is_dense(x: Tensor) -> bool:
    """Whether the kernels take `x`, which is contiguous or channels_last."""
    return has_rows(x) or (has_numbers(x) and x.is_contiguous())


def has_numbers(x: Tensor) -> bool:
    """Whether the kernels read the numbers of `x` from memory as they are."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.dtype in (torch.bfloat16, torch.float32)
        and not x.is_neg()
    )


def is_vector(p: Tensor | None) -> bool:
    """Whether the kernels take this parameter or buffer of one number per channel."""
    return p is None or (
        type(p) in (Tensor, nn.Parameter)
        and p.device.type == "cpu"
        and p.dtype == torch.float32
        and p.dim() == 1
        and p.is_contiguous()
    )
