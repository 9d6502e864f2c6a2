"""Latent weights and ordinary torch optimizers: parameter groups, and a latent clip that travels with the optimizer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from onebit.common.entries import load
from onebit.common.fields import NotNegative, Positive, read
from onebit.common.torch_private import clamp_all_, has_post_hook
from onebit.errors import UsageError
from onebit.layers import LatentWeight, binary_layers, glorot_bound
from onebit.optim.optimizer_table import AFTER_STEP, BEFORE_STEP


def latent_groups(
    model: nn.Module,
    *,
    lr: float,
    latent_clip: float | str | None = "value",
    lr_scale: str | None = None,
    weight_decay: float = 0.0,
    decay_latents: bool = False,
    decay_norm: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups for any torch optimizer: latent weights apart from all other parameters.

    The Glorot learning-rate scale of the reference BinaryConnect code is a factor on the *update* of a latent weight:
    1/sqrt(1.5/(fan_in + fan_out)), squared for SGD. As a factor on the group's learning rate it is kept by every
    scheduler that multiplies. `OneCycleLR` and `CyclicLR` set rates instead: give them a list of one rate per group,
    `max_lr=[8 * group["lr"] for group in optimizer.param_groups]`, and `cycle_momentum=False` with
    optimizers that move latents by a rule of their own.

    Args:
        model: a model with binary layers.
        lr: learning rate of the other parameters, and of latents before the scale.
        latent_clip: bound c of w ← clip(w, ±c) after each step; "value" for each quantizer's own bound, None for none.
        lr_scale: None, "glorot" (Adam-like optimizers) or "glorot_squared" (SGD).
        weight_decay: for weights of real layers; latents, biases and BatchNorm get none. Every group has its own, so
            that of the optimizer has no effect.
        decay_latents, decay_norm: weight decay for latents, for biases and BatchNorm all the same.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `latent`, whether they are latents; those that are with
        `lr_factor` (which their `lr` contains), and `latent_clip` where they are clipped.

    Raises:
        UsageError: an unknown scale, a negative rate, or a clip that is not positive.
    """
    read(lr, NotNegative, name="lr")
    read(weight_decay, NotNegative, name="weight_decay")
    read(latent_clip, Positive | Literal["value"] | None, name="latent_clip")
    read(lr_scale, Literal["glorot", "glorot_squared"] | None, name="lr_scale")
    latents: dict[tuple[float, float | None], list[nn.Parameter]] = {}
    layers: dict[Tensor, LatentWeight] = {}
    for _, layer in binary_layers(model):
        layers.setdefault(layer.weight, layer)
    for weight, layer in layers.items():
        factor = 1.0
        if lr_scale is not None:
            factor = glorot_bound(layer.outputs_first(weight)) ** (-2 if lr_scale == "glorot_squared" else -1)
        clip = layer.weight_quantizer.latent_bound if latent_clip == "value" else latent_clip  # type: ignore[union-attr]
        latents.setdefault((factor, clip), []).append(weight)  # type: ignore[arg-type]
    groups: list[dict[str, Any]] = []
    for (factor, clip), parameters in latents.items():
        group: dict[str, Any] = {
            "params": parameters,
            "lr": lr * factor,
            "weight_decay": weight_decay if decay_latents else 0.0,
            "latent": True,
            "lr_factor": factor,
        }
        if clip is not None:
            group["latent_clip"] = float(clip)
        groups.append(group)
    others = [p for p in model.parameters() if p not in layers]
    for parameters, decay in (
        ([p for p in others if p.dim() > 1], weight_decay),
        ([p for p in others if p.dim() <= 1], weight_decay if decay_norm else 0.0),
    ):
        if parameters:
            groups.append({"params": parameters, "lr": lr, "weight_decay": decay, "latent": False})
    return groups


def latent_rate(optimizer: torch.optim.Optimizer) -> float:
    """Learning rate of latents before their scale; of the last group where latents have none (as in real nets)."""
    for group in optimizer.param_groups:
        if group.get("latent") and getattr(optimizer, "lr_of_latents", True):
            return float(group["lr"]) / float(group.get("lr_factor", 1.0))
    return float(optimizer.param_groups[-1]["lr"])


def _begin_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """`BEFORE_STEP` of each group."""
    for group in optimizer.param_groups:
        for key, rule in BEFORE_STEP.items():
            if key in group:
                load(rule)(group)


@torch.no_grad()  # post hooks run with gradients enabled
def _finish_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """`AFTER_STEP`, then the clip, of the parameters that moved: those with a gradient."""
    # a fused optimizer skips the step itself where GradScaler found a gradient that is not finite
    skipped = getattr(optimizer, "found_inf", None)
    if skipped is not None and bool(skipped):
        return
    for group in optimizer.param_groups:
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        for key, rule in AFTER_STEP.items():
            if key in group:
                load(rule)(group, moved)
        clip = group.get("latent_clip")  # .get: a group added later need not have the key
        if clip is not None and moved and moved[0].is_cuda:  # two kernels for all latents; on a CPU two passes
            clamp_all_(moved, -clip, clip)
        elif clip is not None:
            for parameter in moved:
                parameter.clamp_(-clip, clip)


def finish_steps_(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Around each `step()`, do what the groups of an optimizer ask for; idempotent.

    That is `BEFORE_STEP`, `AFTER_STEP` and `latent_clip`.

    Copies and pickles of an optimizer lose hooks, which is why `fit` and the loading of checkpoints call this again.

    Returns:
        `optimizer` itself.
    """
    if not has_post_hook(optimizer, _finish_step):
        optimizer.register_step_pre_hook(_begin_step)
        optimizer.register_step_post_hook(_finish_step)
    return optimizer


def clip_latents_(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """After each `step()`, clamp the parameters that it moved in every group that has `latent_clip` to ±latent_clip.

    Works with any torch optimizer. Idempotent.

    Returns:
        `optimizer` itself.

    Raises:
        UsageError: no group says whether it holds latents, as after `Adam(model.parameters())`: nothing would be
            clipped.

    Example:
        >>> groups = latent_groups(model, lr=1e-3)  # doctest: +SKIP
        >>> optimizer = clip_latents_(torch.optim.Adam(groups))  # doctest: +SKIP
    """
    if not any("latent" in group or "latent_clip" in group for group in optimizer.param_groups):
        raise UsageError("the optimizer has no groups of onebit.latent_groups, so nothing would be clipped")
    return finish_steps_(optimizer)
