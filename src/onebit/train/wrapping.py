"""Wrappers of the model in training: torch.compile, and BatchNorm statistics over all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onebit.common.torch_private import BATCH_NORM
from onebit.quantizers.few_bits import FewBits


class Compiled(nn.Module):
    """A compiled model that runs uncompiled until the ranges of its input quantizers are set.

    The first range is a mean over all processes, and a batch of zeros sets none: a compiled pass can neither
    communicate nor branch on a number.

    Args:
        model: shared, not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # small nets wait for the launches of a GPU's kernels; CUDA graphs replay them
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        self.compiled: Any = torch.compile(model, mode="reduce-overhead" if on_gpu else None)
        self._waiting = [module for module in model.modules() if isinstance(module, FewBits)]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        self._waiting = [quantizer for quantizer in self._waiting if not quantizer.has_begun()]
        return (self.model if self._waiting else self.compiled)(*inputs, **named)


class SyncedNorms(nn.Module):
    """A model with synchronized BatchNorm. Called directly, as in validation, the model has ordinary BatchNorm.

    Example:
        >>> forward = ranks.wrap(SyncedNorms(model))  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        norms = [m for m in model.modules() if isinstance(m, BATCH_NORM) and not isinstance(m, nn.SyncBatchNorm)]
        self._norms = [(norm, _synced_forward(norm)) for norm in norms]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        for norm, synced in self._norms:
            norm.forward = synced
        try:
            return self.model(*inputs, **named)
        finally:
            for norm, _ in self._norms:
                del norm.forward


def _synced_forward(norm: Any) -> Callable[[Tensor], Tensor]:
    """The synchronized `forward` of one BatchNorm layer: torch's on a GPU, ours on a CPU."""
    on_gpu = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # shares parameters and statistics with `norm`

    @torch.compiler.disable
    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            return type(norm).forward(norm, x)
        if x.is_cuda:
            return on_gpu.train()(x)
        return _normalize(norm, x)

    return forward


class _SumOverRanks(torch.autograd.Function):
    """y = Σ x over ranks, the same on each; the gradient of x is the sum of the gradients of y over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, gradient)


def _normalize(norm: Any, x: Tensor) -> Tensor:
    """(x − mean)/√(variance + eps)·weight + bias per channel, with mean and variance over the images of all ranks.

    The variance is the mean of squared differences, which stays precise for means far from zero.

    Args:
        x: (N, C, …); N may differ between ranks.
    """
    norm._check_input_dim(x)
    axes = [0, *range(2, x.dim())]
    channels = (1, -1) + (1,) * (x.dim() - 2)
    real = x.float()
    here = real.new_full((1,), x.numel() // x.shape[1])
    sums = _SumOverRanks.apply(torch.cat([real.sum(axes), here]))
    mean, count = sums[:-1] / sums[-1], sums[-1]
    centered = real - mean.view(channels)
    variance = _SumOverRanks.apply(centered.square().sum(axes)) / count
    _update_running(norm, mean.detach(), variance.detach() * (count / (count - 1)))
    y = centered * (variance + norm.eps).rsqrt().view(channels)
    if norm.weight is not None:
        y = y * norm.weight.view(channels)
    if norm.bias is not None:
        y = y + norm.bias.view(channels)
    return y.to(x.dtype)


@torch.no_grad()
def _update_running(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics, as torch's BatchNorm does."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    norm.num_batches_tracked.add_(1)
    newest = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, newest)
    norm.running_var.lerp_(variance, newest)
