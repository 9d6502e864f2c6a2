"""The update of latents on the CPU in one pass over memory: the optimizer's rule, then the latent clip.

torch makes a pass for each operation of an optimizer, and one for the clip. The kernel reads gradient, latent and
moments once and writes the latter two, with the state of torch's own optimizers. What it does not cover stays with
torch: small latents, other optimizers and settings, GPUs, closures, and latents without a gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from onebit.native import ADAM, MOMENTUM, InstructionSet, UpdateStruct, run_values
from onebit.quantizers.base import memory_order
from onebit.quantizers.cpu_kernels import has_numbers, is_plain_training, kernels, launch

Fields = dict[str, Any]
MIN_WEIGHTS = 1 << 20
"""Of a latent, below which torch's fused optimizers are as fast."""
AFTER_STEP = {"prox_growth": "onebit.optim.prox:prox_group_"}
"""Key of a parameter group -> function of the group and its updated parameters, called between step and clip."""
BEFORE_STEP = {"prox_freeze": "onebit.optim.prox:freeze_group_"}
"""Key of a parameter group -> function of the group, called before each step."""
_BY_TORCH = ("amsgrad", "maximize", "differentiable", "capturable", *AFTER_STEP)
"""Settings of a group whose latents torch updates."""


def update_latents(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
    """Update the latents that the kernel covers, and hide their gradients from the optimizer: (latent, gradient)."""
    rule, isa = _RULES.get(type(optimizer)), kernels("run_update")
    updated: list[tuple[Tensor, Tensor]] = []
    if rule is None or isa is None or getattr(optimizer, "found_inf", None) is not None:
        return updated
    for group in optimizer.param_groups:
        if group.get("latent") and not any(map(group.get, _BY_TORCH)):
            for latent in group["params"]:
                gradient = latent.grad
                if gradient is None or latent.numel() < MIN_WEIGHTS:
                    continue
                if rule(isa, latent, group, optimizer.state):
                    updated.append((latent, gradient))
                    latent.grad = None
    return updated


def _adam(isa: InstructionSet, latent: Tensor, group: dict[str, Any], states: Any) -> bool:
    state = states[latent]
    decay, decoupled = group["weight_decay"], group.get("decoupled_weight_decay", False)
    if decay and not decoupled:
        return False
    if not state and not _alike(latent):
        return False
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(latent, requires_grad=False) for _ in range(2))
    # in double precision: float32 would lose 1 − beta2 after 5 digits
    (beta1, beta2), rate, step = map(float, group["betas"]), float(group["lr"]), float(state["step"]) + 1
    c1, c2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    numbers = {"share": 1 - beta1, "square_kept": beta2, "square_share": 1 - beta2, "kept": 1 - rate * decay}
    # lr/c1 · m/(√v/c2 + eps) with one division
    numbers |= {"rate": rate * c2 / c1, "epsilon": group["eps"] * c2}
    tensors = {"mean": state["exp_avg"], "square": state["exp_avg_sq"]}
    if not _run(isa, ADAM, latent, latent.grad, group.get("latent_clip"), tensors, numbers):
        return False
    state["step"] += 1
    return True


def _momentum(isa: InstructionSet, latent: Tensor, group: dict[str, Any], states: Any) -> bool:
    kept = float(group["momentum"])
    mean = states[latent].get("momentum_buffer") if kept else None
    numbers = {"kept": kept, "share": 1 - float(group["dampening"]), "rate": float(group["lr"])}
    numbers |= {"decay": float(group["weight_decay"]), "nesterov": int(group["nesterov"])}
    if kept and mean is None:  # torch begins with the gradient
        mean = torch.zeros_like(latent, requires_grad=False)
        numbers["share"] = 1.0
    tensors = {"mean": mean} if kept else {}
    if not _run(isa, MOMENTUM, latent, latent.grad, group.get("latent_clip"), tensors, numbers):
        return False
    if kept:
        states[latent]["momentum_buffer"] = mean
    return True


def update_latent(kind: int, latent: Tensor, gradient: Tensor, mean: Tensor | None, **numbers: float) -> bool:
    """Update a latent and the mean of its gradients in place, see ob_update; False if torch must."""
    isa = kernels("run_update")
    return isa is not None and _run(isa, kind, latent, gradient, None, {} if mean is None else {"mean": mean}, numbers)


_RULES = {torch.optim.Adam: _adam, torch.optim.AdamW: _adam, torch.optim.SGD: _momentum}


def _run(
    isa: InstructionSet, kind: int, latent: Tensor, gradient: Any, clip: float | None, tensors: Fields, numbers: Fields
) -> bool:
    """Run the kernel; False if it does not take the gradient or the state."""
    if not _alike(latent, gradient, *tensors.values()):
        return False
    numbers |= {"kind": kind, "clip": math.inf if clip is None else clip}
    launch(run_values, isa, UpdateStruct, latent.numel(), latent=latent, gradient=gradient, **tensors, **numbers)
    torch.autograd.graph.increment_version(latent)
    return True


def _alike(latent: Tensor, *others: Tensor) -> bool:
    """Whether the kernel takes these tensors: dense float32 on the CPU, all in one order of memory."""
    return latent.permute(memory_order(latent)).is_contiguous() and all(
        is_plain_training(x.detach())
        and has_numbers(x.detach())
        and (x.dtype, x.shape, x.stride()) == (torch.float32, latent.shape, latent.stride())
        for x in (latent, *others)
    )
