"""Training health: shares of weights that flip, saturate or get no gradient, and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from onebit.evaluation.forward import autocast, unchanged
from onebit.evaluation.losses import Loss, cross_entropy
from onebit.evaluation.metrics import task_of
from onebit.evaluation.trees import called, floats, leaves, size_of, to_device
from onebit.layers import BinaryLayer, batch_norms, binary_layers, input_quantizers
from onebit.layers.base import model_device
from onebit.quantizers import Quantizer

LayerHealth = dict[str, dict[str, float]]
"""Layer -> measure -> share 0–1; a measure that does not apply to a layer is missing.

flip_ratio: of its signs, those that changed since the last epoch. saturation: of its latents, those at or beyond their
bound. zero_gradients: of its latents, those with an exactly zero gradient of the cross-entropy of a few images.
input_saturation: of the inputs of its input quantizer, those with a zero surrogate gradient.
"""
LOOK_IMAGES = 128
"""Number of images for `gradient_health`, which costs less than one training step per epoch."""
CHANCES = 10_000
"""Weights × steps from which on an epoch without a flip is not an accident."""


def binary_signs(model: nn.Module) -> dict[str, Tensor]:
    """Name -> boolean tensor (True = +1) of the signs that ship, for each binary layer."""
    return {name: layer.binary_weight().signs > 0 for name, layer in binary_layers(model)}


def _share(chosen: Tensor) -> float:
    """Share of True in a boolean tensor; 0 without elements."""
    return int(torch.count_nonzero(chosen)) / max(1, chosen.numel())


def layer_health(
    model: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor], gradients: LayerHealth
) -> LayerHealth:
    """The health of every layer after an epoch.

    Args:
        before, after: `binary_signs` of the model, one epoch apart.
        gradients: the result of `gradient_health`.
    """
    health: LayerHealth = {}
    for name, layer in binary_layers(model):
        health[name] = {"flip_ratio": _share(before[name] != after[name])}
        bound = getattr(layer.weight_quantizer, "latent_bound", None)
        if bound is not None:
            health[name]["saturation"] = _share(layer.weight.detach().abs() >= bound)
    for name, measured in gradients.items():
        health[name] = health.get(name, {}) | measured
    return health


def whole_share(model: nn.Module, health: LayerHealth, measure: str) -> float:
    """A measure over the weights of all layers that have it; 0 without such layers."""
    sizes = {name: layer.weight.numel() for name, layer in binary_layers(model) if measure in health[name]}
    return sum(round(health[name][measure] * size) for name, size in sizes.items()) / (sum(sizes.values()) or 1)


def gradient_health(model: nn.Module, x: Any, y: Any, loss: Loss = cross_entropy, *, precision: str) -> LayerHealth:
    """Shares of zero gradients, from one extra forward and backward pass that does not change the training.

    Only attributes that a custom forward keeps outside of buffers see this pass.

    A classification uses the gradient of the cross-entropy: a hinge loss of 0 has no gradient, whatever the layers.

    Args:
        x, y: inputs and targets of some training samples.
        loss: of other tasks.
        precision: see `onebit.train.precision`.
    """
    latents = {name: layer.weight for name, layer in binary_layers(model) if layer.weight.requires_grad}
    inputs: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        stack.enter_context(unchanged(model))
        for name, layer in model.named_modules():
            if isinstance(layer, BinaryLayer) and layer.input_quantizer is not None:
                hook = partial(_note_cut_inputs, inputs.setdefault(name, []))
                stack.enter_context(layer.register_forward_pre_hook(hook))
        if not latents and not inputs:
            return {}
        model.train()
        with autocast(precision, next(leaves(y)).device):
            logits = called(model, x)
        value = loss(floats(logits, task_of(loss)), y)
        if not value:
            latents = {}  # logits so large that even the cross-entropy has no gradient
        gradients = torch.autograd.grad(value, list(latents.values()), allow_unused=True) if latents else ()
    health: LayerHealth = {name: {} for name in (*latents, *inputs)}
    for name, gradient in zip(latents, gradients, strict=True):
        health[name]["zero_gradients"] = 1.0 if gradient is None else _share(gradient == 0)
    for name, cut in inputs.items():
        if cut:
            health[name]["input_saturation"] = _share(torch.cat(cut))
    return health


def _note_cut_inputs(cut: list[Tensor], layer: Any, inputs: tuple[Tensor, ...]) -> None:
    """Add to `cut` where the inputs of a layer get no gradient through its input quantizer."""
    with torch.enable_grad():
        x = inputs[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(layer.quantized_input(x).sum(), x)
    cut.append((gradient == 0).flatten())


@torch.no_grad()
def constant_inputs(model: nn.Module, inputs: Any) -> list[str]:
    """The layers, and the quantizers outside of layers, whose binary inputs are all the same value.

    The net runs in eval mode with the BatchNorm statistics of these inputs, which works for an untrained net, too. The
    model and random states do not change. A model that fails on the inputs has none.

    Args:
        inputs: of two samples or more, as the model takes them.
    """
    found: dict[str, list[Tensor]] = {}

    def note(spans: list[Tensor], module: Any, given: Any, output: Tensor) -> None:
        spans.append(torch.stack(output.aminmax()))

    with ExitStack() as stack:
        for name, quantizer in input_quantizers(model):
            if not isinstance(quantizer, Quantizer) or quantizer.integer_input() is None:
                name = name.removesuffix("input_quantizer").removesuffix(".") or name
                hook = partial(note, found.setdefault(name, []))
                stack.enter_context(quantizer.register_forward_hook(hook))
        if not found or size_of(inputs) < 2:
            return []
        stack.enter_context(unchanged(model))
        model.eval()
        for norm in batch_norms(model):
            norm.train(not isinstance(norm, nn.SyncBatchNorm))  # which would wait for other processes
        with suppress(Exception):  # a custom forward, which may not take these inputs
            called(model, to_device(inputs, model_device(model)))
    return [name for name, spans in found.items() if spans and len(torch.stack(spans).unique()) == 1]


class HealthWatch:
    """Warn once per layer and reason: of layers that do not learn, and of unclipped latents beyond their bound.

    Args:
        model, optimizer: of the training.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self._warned: set[tuple[str, str]] = set()

    def read(self, layers: LayerHealth, *, epoch: int, steps: int) -> list[str]:
        """One warning per reason, for layers without an earlier one.

        Args:
            steps: optimizer steps of this epoch; 0 if signs need not flip any more, as in the second half of training.
        """
        warnings: dict[str, list[str]] = {}
        for name, measured in layers.items():
            for reason in self._reasons(name, measured, steps=steps):
                if (name, reason) not in self._warned:
                    self._warned.add((name, reason))
                    warnings.setdefault(reason, []).append(name)
        return [f"epoch {epoch}: {reason}: {', '.join(names)}" for reason, names in warnings.items()]

    def _reasons(self, name: str, measured: Mapping[str, float], *, steps: int) -> Iterator[str]:
        layer: Any = dict(binary_layers(self.model)).get(name) or self.model.get_submodule(name)
        group = next((g for g in self.optimizer.param_groups if any(p is layer.weight for p in g["params"])), {})
        if measured.get("zero_gradients") == 1:
            yield "all gradients are zero"
        elif measured.get("flip_ratio") == 0 and group.get("lr", 0) > 0 and steps * layer.weight.numel() >= CHANCES:
            yield "no weight changed its sign"
        if measured.get("input_saturation") == 1:
            yield "the surrogate gradients of all inputs are zero"
        bound = getattr(layer.weight_quantizer, "latent_bound", None)
        unclipped = group and bound is not None and "latent_clip" not in group
        if unclipped and bool((layer.weight.detach().abs() > bound).any()):
            yield f"latents are beyond ±{bound:g} and the optimizer does not clip them"
