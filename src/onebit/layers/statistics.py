"""Whether the BatchNorm statistics of a model belong to the weights that ship."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from onebit.common.torch_private import BATCH_NORM
from onebit.layers.base import binary_layers

TIME_CONSTANTS = 5.0
"""After this many times 1/momentum batches, e⁻⁵ = 0.7 % of the initial value is left in a running mean."""


def batch_norms(model: nn.Module) -> list[Any]:
    """The BatchNorm layers that keep statistics."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORM) and module.track_running_stats]


def settling_steps(norms: Iterable[Any]) -> float:
    """Batches after which little of the initial mean 0 and variance 1 is left in the running statistics of layers."""
    return max((TIME_CONSTANTS / norm.momentum for norm in norms if norm.momentum), default=0.0)


def has_unsettled_statistics(model: nn.Module) -> bool:
    """Whether BatchNorm statistics come from too few batches of training, see `settling_steps`."""
    return any(0 < (norm.num_batches_tracked or 0) < settling_steps([norm]) for norm in batch_norms(model))


def trains_other_weights(model: nn.Module) -> bool:
    """Whether a forward pass in training uses other weights than those that ship: random draws, or relaxed ones."""
    quantizers: list[Any] = [layer.weight_quantizer for _, layer in binary_layers(model)]
    return any(quantizer.random or quantizer.relaxed for quantizer in quantizers)


def has_other_statistics(model: nn.Module) -> bool:
    """Whether BatchNorm statistics come from training with other weights than those that ship.

    `onebit.evaluation.reestimate_batch_norm_`, with which `fit` ends, resets torch's count of these batches.
    """
    return trains_other_weights(model) and any(norm.num_batches_tracked for norm in batch_norms(model))
