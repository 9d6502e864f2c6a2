"""Whether the BatchNorm statistics of a model are those of the weights that ship."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from onebit.common.torch_private import BATCH_NORM
from onebit.layers.base import binary_layers

TIME_CONSTANTS = 5.0
"""A running mean holds e⁻⁵ = 0.7 % of what it began with after this many times 1/momentum batches."""


def batch_norms(model: nn.Module) -> list[Any]:
    """The BatchNorm layers that keep statistics."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORM) and module.track_running_stats]


def settling_steps(norms: Iterable[Any]) -> float:
    """Batches after which the running statistics of all these layers have settled; 0 for none of them.

    Before, they still hold much of the mean 0 and variance 1 that they begin with.
    """
    return max((TIME_CONSTANTS / norm.momentum for norm in norms if norm.momentum), default=0.0)


def has_unsettled_statistics(model: nn.Module) -> bool:
    """Whether BatchNorm statistics are of too few batches of training, see `settling_steps`."""
    return any(0 < (norm.num_batches_tracked or 0) < settling_steps([norm]) for norm in batch_norms(model))


def trains_other_weights(model: nn.Module) -> bool:
    """Whether a forward pass in training uses other weights than ship: random draws, or weights that are not ±1."""
    quantizers: list[Any] = [layer.weight_quantizer for _, layer in binary_layers(model)]
    return any(quantizer.random or quantizer.relaxed for quantizer in quantizers)


def has_other_statistics(model: nn.Module) -> bool:
    """Whether BatchNorm statistics are of batches of training with other weights than ship.

    torch counts these batches; `onebit.evaluation.reestimate_batch_norm_`, which `fit` ends with, resets the count.
    """
    return trains_other_weights(model) and any(norm.num_batches_tracked for norm in batch_norms(model))
