"""Latent weights in torch optimizers: parameter groups, and the latent clip after each step."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from onebit.common.entries import load
from onebit.common.fields import NotNegative, Positive, read
from onebit.common.torch_private import clamp_all_, step_hooks
from onebit.errors import UsageError
from onebit.layers import LatentWeight, binary_layers
from onebit.optim.one_pass import AFTER_STEP, BEFORE_STEP, update_latents


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
    """Parameter groups for any torch optimizer, with latent weights apart from all other parameters.

    The Glorot scale of the reference BinaryConnect code is a factor on the *update* of a latent weight:
    1/sqrt(1.5/(fan_in + fan_out)), squared for SGD. Here it is a factor on the learning rate of the group, which
    schedulers that multiply keep. `OneCycleLR` and `CyclicLR` set rates: give them one rate per group,
    `max_lr=[8 * group["lr"] for group in optimizer.param_groups]`, and `cycle_momentum=False` with `Bop` and
    `BayesBiNN`.

    Args:
        model: a model with binary layers.
        lr: learning rate of the other parameters, and of latents before the scale.
        latent_clip: bound c of w ← clip(w, ±c) after each step; "value" for the bound of each quantizer, None for none.
        lr_scale: None, "glorot" (Adam-like optimizers) or "glorot_squared" (SGD).
        weight_decay: of the weights of real layers. Overrides that of the optimizer in all groups.
        decay_latents: apply it to latents. decay_norm: apply it to biases and BatchNorm.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `latent` (bool); groups of latents have `lr_factor`, which their
        `lr` includes, and `latent_clip` if they are clipped.

    Raises:
        UsageError: an unknown scale, a negative rate, or a clip that is not positive.
    """
    read(lr, NotNegative, name="lr")
    read(weight_decay, NotNegative, name="weight_decay")
    read(latent_clip, Positive | Literal["value"] | None, name="latent_clip")
    read(lr_scale, Literal["glorot", "glorot_squared"] | None, name="lr_scale")
    layers: dict[Tensor, LatentWeight] = {}
    for _, layer in binary_layers(model):
        layers.setdefault(layer.weight, layer)
    groups: dict[tuple[float, Any], dict[str, Any]] = {}
    decay = weight_decay if decay_latents else 0.0
    for weight, layer in layers.items():
        power = {None: 0, "glorot": -1, "glorot_squared": -2}[lr_scale]
        factor = layer.glorot_bound**power if power else 1.0
        clip = layer.weight_quantizer.latent_bound if latent_clip == "value" else latent_clip  # type: ignore[union-attr]
        clipped = {} if clip is None else {"latent_clip": float(clip)}
        group = {"params": [], "lr": lr * factor, "weight_decay": decay, "latent": True, "lr_factor": factor, **clipped}
        groups.setdefault((factor, clip), group)["params"].append(weight)
    others = [p for p in model.parameters() if p not in layers]
    matrices, vectors = [p for p in others if p.dim() > 1], [p for p in others if p.dim() <= 1]
    decays = ((matrices, weight_decay), (vectors, weight_decay if decay_norm else 0.0))
    real = [{"params": params, "lr": lr, "weight_decay": decay, "latent": False} for params, decay in decays if params]
    return [*groups.values(), *real]


def latent_rate(optimizer: torch.optim.Optimizer) -> float:
    """Learning rate of latents before their scale; without one, that of the last group."""
    for group in optimizer.param_groups:
        if group.get("latent") and getattr(optimizer, "lr_of_latents", True):
            return float(group["lr"]) / float(group.get("lr_factor", 1.0))
    return float(optimizer.param_groups[-1]["lr"])


def switch_(optimizer: torch.optim.Optimizer, mode: Literal["train", "eval"]) -> None:
    """Switch an optimizer that has such modes, as the schedule-free ones, which evaluate an average of the weights."""
    if callable(switch := getattr(optimizer, mode, None)):
        switch()


@torch.no_grad()
def _begin_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Apply `BEFORE_STEP` to each group, and update what one pass can."""
    for group in optimizer.param_groups:
        for key, rule in BEFORE_STEP.items():
            if key in group:
                load(rule)(group)
    # a closure or a later hook will make or change gradients, and an earlier post hook may read them
    before, after = step_hooks(optimizer)
    early = len(args) > 1 or kwargs or [*before[-1:], *after[:1]] != [_begin_step, _finish_step]
    optimizer.updated = [] if early else update_latents(optimizer)  # type: ignore[attr-defined]


@torch.no_grad()  # post hooks run with gradients enabled
def _finish_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Apply `AFTER_STEP`, then the clip, to the parameters with a gradient."""
    updated = vars(optimizer).pop("updated", [])
    # a fused optimizer skips the step itself where GradScaler found a gradient that is not finite
    skipped = getattr(optimizer, "found_inf", None)
    if skipped is not None and bool(skipped):
        return
    for group in optimizer.param_groups:
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        for key, rule in AFTER_STEP.items():
            if key in group:
                load(rule)(group, moved)
        clip = group.get("latent_clip")  # a group added later may lack the key
        if clip is not None and moved and moved[0].is_cuda:  # two kernels for all latents; on a CPU two passes
            clamp_all_(moved, -clip, clip)
        elif clip is not None:
            for parameter in moved:
                parameter.clamp_(-clip, clip)
    for latent, gradient in updated:
        latent.grad = gradient


def finish_steps_(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Apply `BEFORE_STEP`, `AFTER_STEP` and `latent_clip` of the groups around each `step()`; idempotent.

    Copies and pickles of an optimizer lose hooks: `fit` and the loading of checkpoints call this again.

    Returns:
        `optimizer` itself.
    """
    if _finish_step not in step_hooks(optimizer)[1]:
        optimizer.register_step_pre_hook(_begin_step)
        optimizer.register_step_post_hook(_finish_step)
    return optimizer


def clip_latents_(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """After each `step()`, clamp the updated parameters of groups with `latent_clip` to ±latent_clip.

    Works with any torch optimizer; idempotent.

    Returns:
        `optimizer` itself.

    Raises:
        UsageError: no group of `latent_groups`, as after `Adam(model.parameters())`: nothing would be clipped.

    Example:
        >>> groups = latent_groups(model, lr=1e-3)  # doctest: +SKIP
        >>> optimizer = clip_latents_(torch.optim.Adam(groups))  # doctest: +SKIP
    """
    if not any("latent" in group or "latent_clip" in group for group in optimizer.param_groups):
        raise UsageError("the optimizer has no groups of onebit.latent_groups, so nothing would be clipped")
    return finish_steps_(optimizer)
