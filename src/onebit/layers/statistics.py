"""Whether the BatchNorm statistics of a model are those of the weights that ship."""

from __future__ import annotations

from typing import Any

from torch import nn

from onebit.layers.base import binary_layers


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers that keep statistics."""
    kind = nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind) and module.track_running_stats]


def trains_other_weights(model: nn.Module) -> bool:
    """Whether a forward pass in training uses other weights than ship: random draws, or weights that are not ±1."""
    quantizers: list[Any] = [layer.weight_quantizer for _, layer in binary_layers(model)]
    return any(quantizer.random or quantizer.relaxed for quantizer in quantizers)


def has_other_statistics(model: nn.Module) -> bool:
    """Whether BatchNorm statistics are of batches of training with other weights than ship.

    torch counts these batches; `onebit.evaluation.reestimate_batch_norm_`, which `fit` ends with, resets the count.
    """
    return trains_other_weights(model) and any(norm.num_batches_tracked for norm in batch_norms(model))
