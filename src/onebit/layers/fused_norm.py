"""BatchNorm, a sum and ReLU or Hardtanh of a training step as one operation on the CPU.

In a net of small convolutions these passes over memory take longer than the convolutions. The fused forward reads the
values twice and writes them once; backward computes all gradients in two passes. `normalized`, `normalized_twice`,
`Chain` and `BatchNorm2d` use it where it equals the modules, and call the modules elsewhere: in eval mode, on a
GPU, with hooks, compiled, traced, or without the native library (`ONEBIT_NATIVE=0`).

Results differ from those of the modules by rounding only. Sums are float32 for at most 64 terms and double after that;
only the result is rounded to bfloat16. Results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.torch_private import any_hooks
from onebit.layers.rprelu import RPReLU
from onebit.native import InstructionSet, NormStruct, run_norm
from onebit.quantizers.cpu_kernels import (
    MAX_CHANNELS,
    has_rows,
    is_plain_training,
    is_vector,
    kernels,
    launch,
    row_format,
)

_TENSORS = ("shortcut", "weight", "bias", "running_mean", "running_var")


def normalized(
    x: Tensor, norm: nn.Module, activation: nn.Module | None = None, shortcut: Tensor | None = None
) -> Tensor:
    """activation(norm(x) + shortcut), without what is None.

    Fused for `torch.nn.BatchNorm2d` with `torch.nn.ReLU`, `Hardtanh` at ±1 or `Identity`, and values in float32 or
    bfloat16 and in channels_last; else the modules are called, which are as fast for the few values of a dense layer.

    Shapes:
        x, shortcut: (N, C, H, W) -> the same.
    """
    if type(activation) is RPReLU:  # fused separately
        return activation(normalized(x, norm, None, shortcut))
    isa = _instruction_set(x, norm, activation, shortcut)
    if isa is None:
        y = norm(x)
        if shortcut is not None:
            y = y + shortcut
        return y if activation is None else activation(y)
    return _fused(isa, x, norm, activation, shortcut, twice=False)[0]


def normalized_twice(
    x: Tensor, norm: nn.Module, activation: nn.Module | None = None, shortcut: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`normalized` as two tensors, one for each use, whose gradients are added in the fused backward pass.

    Autograd would add them in another pass. The two share memory. Each gets the gradient of one use only, so neither
    may be returned where the gradient of both is expected.
    """
    isa = _instruction_set(x, norm, activation, shortcut)
    if isa is None:
        y = normalized(x, norm, activation, shortcut)
        return y, y
    y, again = _fused(isa, x, norm, activation, shortcut, twice=True)
    return y, again


class Chain(nn.Sequential):
    """`torch.nn.Sequential` with `normalized` for a BatchNorm and the activation that follows it."""

    def forward(self, x: Tensor) -> Tensor:
        layers, activation = list(self), None
        for layer, following in zip(layers, [*layers[1:], None], strict=False):
            if isinstance(layer, nn.BatchNorm2d):
                activation = None if _bounds(following) is None else following
                x = normalized(x, layer, activation)
            elif layer is activation:
                activation = None
            else:
                x = layer(x)
        return x


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, fused in a training step on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        isa = _instruction_set(input, self, None, None)
        return super().forward(input) if isa is None else _fused(isa, input, self, None, None, twice=False)[0]


FAST_TWINS: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm2d: BatchNorm2d, nn.Sequential: Chain}
"""Class -> the one that does the same faster."""


def are_watched(*modules: nn.Module | None) -> bool:
    """Whether calls of these modules do more than the `forward` of their class: hooks, or a trace of torch.jit."""
    replaced = any("forward" in module.__dict__ for module in modules if module is not None)
    return torch.jit.is_tracing() or replaced or any_hooks(*modules)


def _instruction_set(x: Any, norm: Any, activation: nn.Module | None, shortcut: Any) -> InstructionSet | None:
    """The instruction set with the kernels, or None where the modules must run."""
    fits = (
        norm.training
        and is_plain_training(x)
        and type(norm) in (nn.BatchNorm2d, BatchNorm2d)
        and _bounds(activation) is not None
        and norm.momentum is not None
        and norm.eps > 0
        and x.dim() == 4
        and x.shape[1] == norm.num_features <= MAX_CHANNELS
        and x.numel() > norm.num_features  # torch raises for a single value per channel
        and has_rows(x)
        and (shortcut is None or (has_rows(shortcut) and shortcut.dtype == x.dtype and shortcut.shape == x.shape))
        and all(map(is_vector, (norm.weight, norm.bias, norm.running_mean, norm.running_var)))
        and (norm.running_mean is None) == (norm.running_var is None)
        and (norm.weight is None) == (norm.bias is None)
        and not are_watched(norm, activation)
    )
    return kernels("run_norm") if fits else None


def _bounds(activation: nn.Module | None) -> tuple[float, float] | None:
    """The least and the largest output of an activation, NaN for no bound; None for other activations."""
    if type(activation) in (nn.Identity, type(None)):
        return math.nan, math.nan
    if type(activation) is nn.ReLU:
        return 0.0, math.nan
    if type(activation) is nn.Hardtanh and (activation.min_val, activation.max_val) == (-1, 1):  # exact in bfloat16
        return -1.0, 1.0
    return None


def _fused(
    isa: InstructionSet, x: Tensor, norm: Any, activation: nn.Module | None, shortcut: Tensor | None, *, twice: bool
) -> tuple[Tensor, ...]:
    running = (norm.running_mean, norm.running_var) if norm.track_running_stats else (None, None)
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    tensors = (x, shortcut, norm.weight, norm.bias, *running)
    return _Normalized.apply(isa, twice, _bounds(activation), norm.eps, norm.momentum, *tensors)


def _run(isa: InstructionSet, x: Tensor, *, bounds: tuple[float, float], **fields: Tensor | float | None) -> None:
    sizes = {"rows": x.numel() // x.shape[1], "channels": x.shape[1], "bf16": x.dtype == torch.bfloat16}
    launch(run_norm, isa, NormStruct, least=bounds[0], most=bounds[1], x=x, **sizes, **fields)


def _are_bounds(bounds: tuple[float, float]) -> bool:
    return not all(map(math.isnan, bounds))


class _Normalized(torch.autograd.Function):
    """norm(x) + shortcut, clipped to bounds, as one tensor or two; the gradients of both uses are added."""

    @staticmethod
    def forward(
        ctx: Any,
        isa: InstructionSet,
        twice: bool,
        bounds: tuple[float, float],
        eps: float,
        momentum: float,
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        out = torch.empty_like(x)
        statistics = torch.empty(4, x.shape[1], dtype=torch.float32, device=x.device)
        given: dict[str, Any] = dict(zip(_TENSORS, tensors, strict=True))
        _run(isa, x, bounds=bounds, out=out, statistics=statistics, eps=eps, momentum=momentum, **given)
        shortcut, weight = tensors[:2]
        ctx.isa, ctx.bounds, ctx.eps = isa, bounds, eps
        # without a shortcut, x tells the sign of y, but not what is rounded to 1; of two outputs, autograd must notice
        # that one was changed in place
        known_from_x = shortcut is None and bounds[0] == 0
        saved_out = out if twice or (_are_bounds(bounds) and not known_from_x) else None
        ctx.save_for_backward(x, weight, statistics, saved_out)
        ctx.set_materialize_grads(False)
        return (out, out.detach()) if twice else (out,)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, statistics, out = ctx.saved_tensors
        given = [gradient for gradient in gradients if gradient is not None]
        to_x, to_shortcut = ctx.needs_input_grad[5:7]
        if not given:
            return (None,) * 11
        # hooks of saved tensors may have changed their memory order or dtype
        plain = all(
            is_plain_training(part) and part.dtype == x.dtype for part in (x, *given, x if out is None else out)
        )
        if torch.is_grad_enabled() or not plain:
            return _by_torch(ctx, x, weight, statistics, out, given)
        x, *given = (part.contiguous(memory_format=row_format(x)) for part in (x, *given))
        out = None if out is None else out.contiguous(memory_format=row_format(x))
        x_gradient = torch.empty_like(x)
        kept = None
        if len(given) > 1 or out is not None:
            kept = torch.empty_like(x) if to_shortcut else x_gradient
        sums = torch.empty(2, x.shape[1], dtype=torch.float32, device=x.device)
        parts = {"gradient": given[0], "second_gradient": given[1] if len(given) > 1 else None, "kept": kept}
        fields = {"out": out, "statistics": statistics, "weight_gradient": sums[0], "bias_gradient": sums[1]}
        _run(ctx.isa, x, bounds=ctx.bounds, x_gradient=x_gradient, **parts, **fields)
        through = (given[0] if kept is None else kept) if to_shortcut else None
        per_channel = (sums[0], sums[1]) if weight is not None else (None, None)
        return *(None,) * 5, x_gradient if to_x else None, through, *per_channel, None, None


def _by_torch(
    ctx: Any, x: Tensor, weight: Tensor | None, statistics: Tensor, out: Tensor | None, given: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """The backward pass in operations of torch, which can be differentiated again."""
    gradient = given[0] if len(given) == 1 else given[0] + given[1]
    x = x.to(gradient.dtype)
    mean, inverse, factor, offset = statistics
    if _are_bounds(ctx.bounds):
        channels = (1, -1) + (1,) * (x.dim() - 2)
        factor, offset = factor.view(channels), offset.view(channels)
        y = x.detach() * factor + offset if out is None else out.detach()
        gradient = torch.where((y <= ctx.bounds[0]) | (y >= ctx.bounds[1]), torch.zeros_like(gradient), gradient)
    wanted = [True, weight is not None, weight is not None]
    to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, None, None, mean, inverse, True, ctx.eps, wanted
    )
    return *(None,) * 5, to_x, gradient if ctx.needs_input_grad[6] else None, to_weight, to_bias, None, None
