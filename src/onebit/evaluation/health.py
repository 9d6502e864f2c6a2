"""Training health per layer: what flips, saturates and gets no gradient, and which layers to warn of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onebit.evaluation.losses import cross_entropy
from onebit.evaluation.precision import autocast
from onebit.evaluation.summary import flip_ratio
from onebit.layers import BinaryLayer, binary_layers

LayerHealth = dict[str, dict[str, float]]
"""Layer -> what was measured of it, all of them shares 0–1; a measure that does not apply to a layer is left out.

flip_ratio: of its signs, those that changed since the last epoch. saturation: of its latents, those at or beyond their
bound. zero_gradients: of its latents, those to which exactly 0 comes back from the cross-entropy of a few images.
input_saturation: of the inputs of its input quantizer, those where the surrogate gradient is 0.
"""
LOOK_IMAGES = 128
"""How many images of the last batch gradients are looked at with: less than a step, once per epoch."""
CHANCES = 10_000
"""Weights × steps of an epoch in which no sign flipped, from which on that is no accident."""


def layer_health(
    model: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor], gradients: LayerHealth
) -> LayerHealth:
    """The health of every layer after an epoch.

    Args:
        before, after: `binary_signs` of the model, an epoch apart.
        gradients: what `gradient_health` found.
    """
    found: LayerHealth = {}
    for name, layer in binary_layers(model):
        own = found[name] = {"flip_ratio": flip_ratio({name: before[name]}, {name: after[name]})}
        bound = layer.weight_quantizer.latent_bound  # type: ignore[union-attr]  # a layer with binary weights
        if bound is not None:
            own["saturation"] = _share(layer.weight.detach().abs() >= bound)
    for name, measured in gradients.items():
        found[name] = found.get(name, {}) | measured
    return found


def gradient_health(model: nn.Module, x: Tensor, y: Tensor, *, precision: str) -> LayerHealth:
    """Shares of zero gradients, from one more forward and backward pass that leaves nothing behind.

    The gradient is that of the cross-entropy, whatever the loss of training: a hinge loss that is met gives none, which
    says nothing of the layers.

    Args:
        x, y: images (uint8, N×C×H×W) and labels of a training batch; LOOK_IMAGES of them are looked at.
        precision: see `onebit.evaluation.precision`.
    """
    x, y = x[:LOOK_IMAGES], y[:LOOK_IMAGES]
    latents = {name: layer.weight for name, layer in binary_layers(model) if layer.weight.requires_grad}
    inputs: dict[str, list[Tensor]] = {}
    with ExitStack() as kept:
        kept.enter_context(_unchanged(model))
        for name, layer in model.named_modules():
            if isinstance(layer, BinaryLayer) and layer.input_quantizer is not None:
                hook = layer.register_forward_pre_hook(_cut_inputs(layer.input_quantizer, inputs.setdefault(name, [])))
                kept.callback(hook.remove)
        if not latents and not inputs:
            return {}
        model.train()
        with autocast(precision, y.device):
            logits = model(x)
        value = cross_entropy(logits.float(), y)
        if not value:
            latents = {}  # logits so large that not even the cross-entropy has a gradient
        gradients = torch.autograd.grad(value, list(latents.values()), allow_unused=True) if latents else ()
    found: LayerHealth = {name: {} for name in (*latents, *inputs)}
    for name, gradient in zip(latents, gradients, strict=True):
        found[name]["zero_gradients"] = 1.0 if gradient is None else _share(gradient == 0)
    for name, cut in inputs.items():
        if cut:
            found[name]["input_saturation"] = _share(torch.cat(cut))
    return found


def _cut_inputs(quantizer: nn.Module, into: list[Tensor]) -> Any:
    """A hook that notes where the inputs of a layer get no gradient through its input quantizer."""

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with torch.enable_grad():
            x = inputs[0].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(quantizer(x).sum(), x)
        into.append(gradient.flatten() == 0)

    return note


def _share(chosen: Tensor) -> float:
    return int(torch.count_nonzero(chosen)) / chosen.numel()


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """On leaving, buffers, random streams and the mode are what they were: training goes on as if nothing had been."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    generators = {
        id(g): g for module in model.modules() if isinstance(g := getattr(module, "generator", None), torch.Generator)
    }
    states = [(generator, generator.get_state()) for generator in generators.values()]
    training = {module: module.training for module in model.modules()}
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for generator, state in states:
                generator.set_state(state)
            for module, was in training.items():
                module.training = was


class HealthWatch:
    """Says once per layer and reason when a layer does not learn, or when latents leave a bound that nothing keeps.

    Args:
        model, optimizer: of the training.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self._told: set[tuple[str, str]] = set()

    def read(self, layers: LayerHealth, *, epoch: int, steps: int, early: bool) -> list[str]:
        """One line for each reason that holds for layers which it has not been told of.

        Args:
            steps: of this epoch.
            early: whether signs should still flip: in the first half of a training.
        """
        found: dict[str, list[str]] = {}
        for name, measured in layers.items():
            for reason in self._reasons(name, measured, steps=steps if early else 0):
                if (name, reason) not in self._told:
                    self._told.add((name, reason))
                    found.setdefault(reason, []).append(name)
        return [f"epoch {epoch}, {_listed(names)}: {reason}" for reason, names in found.items()]

    def _reasons(self, name: str, measured: Mapping[str, float], *, steps: int) -> Iterator[str]:
        layer: Any = self.model.get_submodule(name)
        group = next((g for g in self.optimizer.param_groups if any(p is layer.weight for p in g["params"])), {})
        if measured.get("zero_gradients") == 1:
            yield "all gradients are zero: the layer no longer learns; lower the learning rate, or normalise its inputs"
        elif measured.get("flip_ratio") == 0 and group.get("lr", 0) > 0 and steps * layer.weight.numel() >= CHANCES:
            yield "no weight changed its sign: the layer does not learn; raise the learning rate, or begin nearer zero"
        if measured.get("input_saturation") == 1:
            yield (
                "all inputs lie where the surrogate gradient of the input quantizer is zero: nothing before the layer "
                "learns; put BatchNorm before it"
            )
        quantizer = layer.weight_quantizer
        bound = None if quantizer is None else quantizer.latent_bound
        if group and bound is not None and "latent_clip" not in group:
            outside = _share(layer.weight.detach().abs() > bound)
            if outside:
                yield (
                    f"latents lie beyond ±{bound:g} and the optimizer does not clip them; "
                    "set optimizer.latent_clip to value, or use onebit.latent_groups and clip_latents_"
                )


def _listed(names: list[str]) -> str:
    """Names for a line; of many the first ones."""
    more = f" and {len(names) - 4} more layers" if len(names) > 5 else ""
    shown = names[:4] if more else names
    return f"{'layers' if len(names) > 1 else 'layer'} {', '.join(shown)}{more}"
