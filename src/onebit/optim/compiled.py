"""The update of latent weights in one compiled pass: Adam, the latent clip and the next binary weights.

A pass over 10 million weights costs 1 to 3 % of a training step of a dense net. Eager code makes one for Adam, one for
the clip and two (`sign`) to six (`stochastic`) for the binary weight; here each weight is loaded and stored once.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers import binary_layers
from onebit.optim.latents import clip_latents_
from onebit.optim.optimizer_table import AFTER_STEP
from onebit.quantizers import Quantizer, Sign, SteSign, Stochastic, sign
from onebit.quantizers.base import Prepared, memory_order

QUANTIZERS: dict[type[Quantizer], bool] = {Sign: False, SteSign: False, Stochastic: True}
"""Quantizers whose training weight can be written ahead -> whether it is drawn. Others quantize in their forward."""

EAGER = ("weight_decay", "amsgrad", "maximize", "differentiable", "capturable", *AFTER_STEP)
"""Settings of a group whose latents move as before."""
RESOLUTION = 2.0**23
"""Steps of the draw per unit of probability, halved: p is exact to 1/2**24."""


def _random(seed: Tensor, count: int) -> Tensor:
    """`count` int32 uniform in [−2**23, 2**23), an integer hash of (index, seed).

    torch's generators cost as much as the rest of the update. Two rounds of xorshift and multiply (the constants are
    those of lowbias32, github.com/skeeto/hash-prospector); the second seed word keeps the streams of two steps apart.

    Args:
        seed: int32 (2,).
    """
    x = (torch.arange(count, dtype=torch.int32, device=seed.device) + seed[0]) * -1640531527
    x = (x ^ ((x >> 15) & 0x1FFFF)) * 0x7FEB352D  # the mask makes >> a logical shift
    x = (x ^ ((x >> 16) & 0xFFFF)) + seed[1]
    return (x * -2073254261) >> 8


def _update(
    latents: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    weights: list[Tensor],
    numbers: Tensor,
    seeds: list[Tensor | None],
) -> None:
    """Adam, clip and quantizer, in place; this is what is compiled.

    Args:
        latents, gradients, means, squares, weights: the same shapes; `weights` receives ±value.
        numbers: (len(latents), 7), see `_numbers`; a tensor, because each new Python number would be recompiled.
        seeds: int32 (2,) where the weight is drawn, None where it is the sign.
    """
    for i, (w, g, m, v, weight, seed) in enumerate(
        zip(latents, gradients, means, squares, weights, seeds, strict=True)
    ):
        one_minus_beta1, beta2, one_minus_beta2, rate, epsilon, clip, value = numbers[i].unbind()
        m.add_((g - m) * one_minus_beta1)
        v.copy_(v * beta2 + g * g * one_minus_beta2)
        w.copy_((w - rate * m / (v.sqrt() + epsilon)).clamp(-clip, clip))
        if seed is None:
            weight.copy_(sign(w) * value)
        else:
            # −value where r ≥ 2**23·w/value, which is never at w = value and always at w = −value
            weight.copy_(sign(_random(seed, w.numel()).view(w.shape) - w * (RESOLUTION / value)) * -value)


def _numbers(group: dict[str, Any], step: float, quantizer: Quantizer) -> list[float]:
    """Adam's factors at a step, formed in double precision: float32 would lose 1 − beta2 after 5 digits.

    Adam's w −= lr/c1 · m/(√v/c2 + eps) with one division: w −= (lr·c2/c1) · m/(√v + eps·c2).
    """
    beta1, beta2 = group["betas"]
    c1, c2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    clip = group.get("latent_clip")
    return [
        1 - beta1,
        beta2,
        1 - beta2,
        float(group["lr"]) * c2 / c1,
        group["eps"] * c2,
        math.inf if clip is None else clip,
        quantizer.value,
    ]


def _state(optimizer: torch.optim.Optimizer, latent: Tensor) -> dict[str, Tensor]:
    """Adam's state of a latent, made as Adam makes it before the first step, in the latent's memory format."""
    state = optimizer.state[latent]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=latent.device)
        state["exp_avg"] = torch.zeros_like(latent, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(latent, requires_grad=False)
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = _laid_out(state[name], latent)
    return state


def _laid_out(x: Tensor, latent: Tensor) -> Tensor:
    """`x` itself, or a copy of it in the memory layout of `latent`."""
    return x if x.stride() == latent.stride() else torch.empty_like(latent, dtype=x.dtype).copy_(x)


def _flat(latent: Tensor) -> Callable[[Tensor], Tensor]:
    """The (n,) view, in memory order, of a tensor in the memory layout of `latent`.

    One compiled loop then serves every memory format, and draws need no detour. A latent with gaps keeps its shape.
    """
    order = memory_order(latent)
    dense = latent.permute(order).is_contiguous()
    return lambda x: x.permute(order).view(-1) if dense else x


def _seed(quantizer: Quantizer, latent: Tensor) -> Tensor | None:
    """The seed of one draw, from the quantizer's generator; None for a quantizer that does not draw."""
    if not QUANTIZERS[type(quantizer)]:
        return None
    generator = getattr(quantizer, "generator", None)
    return torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=latent.device, generator=generator)


def compile_update_(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> torch.optim.Optimizer:
    """Let `optimizer.step()` update latents in one compiled pass that also writes the next binary weights.

    The same arithmetic as torch's Adam, up to rounding. Gradients of these latents are None after a step. Drawn weights
    come from torch's generator through a hash, so they are other draws than those of eager training. Schedules,
    state_dict and its loading work as before; a run that goes on after `optimizer.state_dict()` and one resumed from it
    agree bit for bit. A latent written outside (loading, initialization, in-place edits) is quantized again, but not
    one written through `.data` or by another fused optimizer of torch, which torch does not count. Everything else runs
    as before: other parameters, `step(closure)`, quantizers not in QUANTIZERS, groups with a setting of EAGER. Copies
    and pickles of the optimizer are eager again.

    The first step compiles, for 5 to 25 seconds; torch keeps the result on disk, which makes it 1 to 5 the next time.

    Args:
        optimizer: `torch.optim.Adam` or `AdamW`.
        model: whose binary layers hold the latents.
        dtype: that of the matrix products of training, in which weights are written; None for that of the latents.
        backend: of `torch.compile`.

    Returns:
        `optimizer` itself.

    Raises:
        UsageError: another optimizer, or nothing to compile.

    Example:
        >>> optimizer = torch.optim.Adam(latent_groups(model, lr=1e-3), fused=True)  # doctest: +SKIP
        >>> optimizer = compile_update_(optimizer, model)  # doctest: +SKIP
    """
    quantizers: dict[Tensor, Quantizer] = {}
    for _, layer in binary_layers(model):
        if type(layer.weight_quantizer) in QUANTIZERS:
            quantizers.setdefault(layer.weight, layer.weight_quantizer)  # type: ignore[arg-type]
    if not quantizers or type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        got = f"{type(optimizer).__name__} with {len(quantizers)} of them"
        raise UsageError(f"a compiled update needs adam or adamw and sign, ste_sign or stochastic layers, got {got}")
    weights: dict[Tensor, Tensor] = {}

    def weight_of(latent: Tensor) -> Tensor:
        # made here and not before: what trains the model may give it another memory format first
        if latent not in weights or weights[latent].stride() != latent.stride():
            weights[latent] = torch.empty_like(latent, dtype=dtype, requires_grad=False)
        return weights[latent]

    # torch.compile keeps at most 8 variants of a code object and then stops compiling: each net gets its own
    function = types.FunctionType(_update.__code__.replace(), _update.__globals__)
    update = torch.compile(function, backend=backend, dynamic=False)

    @torch.no_grad()
    def update_latents(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if len(args) > 1 or kwargs or getattr(optimizer, "found_inf", None) is not None:
            return  # gradients that a closure will make, or scaled ones: the eager step knows what to do
        compiled = [group for group in optimizer.param_groups if not any(map(group.get, EAGER))]
        groups = {p: group for group in compiled for p in group["params"] if p in quantizers}
        latents = [p for p in groups if p.grad is not None]
        if not latents:
            return
        rows, numbers = [], []
        for p in latents:
            state = _state(optimizer, p)
            own = (p, _laid_out(p.grad, p), state["exp_avg"], state["exp_avg_sq"], weight_of(p))
            rows.append(list(map(_flat(p), own)))
            numbers.append(_numbers(groups[p], float(state["step"]) + 1, quantizers[p]))
        update(
            *map(list, zip(*rows, strict=True)),
            torch.tensor(numbers, dtype=torch.float32).to(latents[0].device, non_blocking=True),
            [_seed(quantizers[p], p) for p in latents],
        )
        for p in latents:
            optimizer.state[p]["step"] += 1
            p.grad = None  # the optimizer's own step and the clip pass over parameters without a gradient
            p.prepared = Prepared(p, weights[p], quantizers[p].value, quantizers[p].random)

    def forget_draws(optimizer: torch.optim.Optimizer) -> None:
        # a resumed run cannot know the draw that is already written, so the continuing run draws again as well
        for p, quantizer in quantizers.items():
            if quantizer.random:
                p.prepared = None  # type: ignore[attr-defined]

    optimizer.register_step_pre_hook(update_latents)
    optimizer.register_state_dict_pre_hook(forget_draws)
    return clip_latents_(optimizer)
