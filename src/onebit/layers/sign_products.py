"""Products of a training step with weights of ±1 on the CPU, by lookups of sums (see native/csrc/training/product.h).

A forward pass reads the latents once and keeps their signs as bits, in panels for the product and for the gradient to
the inputs; the gradient to the weights is a real product. Results are those of torch up to rounding, and do not depend
on the number of threads. Gradients that are differentiated again, in batches or compiled are those of torch.
`signed_linear` is for `BinaryLinear`, which calls `torch.nn.functional.linear` where `sign_kernels` finds none: other
devices and dtypes, small layers, compiled or traced models, and without the native library (`ONEBIT_NATIVE=0`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from onebit.native import (
    DenseGradientStruct,
    InstructionSet,
    ProductStruct,
    SignsStruct,
    panel_words,
    run_dense_gradient,
    run_product,
    run_signs,
    sign_blocks,
)
from onebit.quantizers import SignedWeight
from onebit.quantizers.base import Surrogate, autocast_dtype
from onebit.quantizers.cpu_kernels import is_plain_training, kernels, launch

MIN_OUTPUTS = 16
MIN_PRODUCTS = {torch.float32: 1 << 25, torch.bfloat16: 1 << 27}
"""Rows × weights, by the dtype of the product, below which torch is as fast; for inputs that are signs a quarter."""


def sign_kernels(x: Tensor, weight: Tensor, *, signs: bool) -> InstructionSet | None:
    """The instruction set whose kernels are faster for this input (…, I) and float32 latents (O, I) of a training step.

    Not only while gradients are recorded: reentrant checkpointing first runs without, and must draw the same weights.

    Args:
        signs: whether the product has all inputs ±1.
    """
    fits = (
        is_plain_training(x)
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu")))
        and x.layout == torch.strided
        and x.numel() > 0
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.is_contiguous()
        and x.shape[-1] == weight.shape[1]
        and weight.shape[0] >= MIN_OUTPUTS
        and x.numel() * len(weight) >= MIN_PRODUCTS.get(autocast_dtype(x), math.inf) / (4 if signs else 1)
    )
    return kernels("run_product") if fits else None


def signed_linear(isa: InstructionSet, x: Tensor, signed: SignedWeight, *, signs: bool = False) -> Tensor:
    """x · Wᵀ for x (…, I) and the weight (O, I) of `signed`; in bfloat16 under autocast, as `linear`.

    Args:
        signs: whether all of x is ±1.
    """
    x = x.to(autocast_dtype(x))
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    y: Tensor = _SignedLinear.apply(isa, signs, signed, rows, signed.latent)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], -1)


class _SignedLinear(torch.autograd.Function):
    """(N, I) -> (N, O)."""

    @staticmethod
    def forward(ctx: Any, isa: InstructionSet, signs: bool, signed: SignedWeight, x: Tensor, latent: Tensor) -> Tensor:
        panels, transposed, most = packed_signs(isa, latent, signed.seed, signed.steepness, signed.of_tanh)
        x_panels, x_transposed = packed_signs(isa, x)[:2] if signs else (None, None)
        y = x.new_empty(len(x), len(latent), dtype=torch.float32 if signed.of_mean else x.dtype)
        multiply(isa, x, panels, y, x_panels=x_panels, scale=None if signed.of_mean else signed.scale)
        sums = y if signed.of_mean else None
        ctx.isa, ctx.signed = isa, signed
        ctx.save_for_backward(x, None if signed.bound is None else latent, transposed, most, x_transposed, sums)
        return y if sums is None or signed.scale is None else (sums * signed.scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        signed, (x, latent, transposed, most, x_transposed, sums) = ctx.signed, ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain_training(gradient):
            return None, None, None, *_by_torch(gradient, x, signed, unpacked_signs(ctx.isa, transposed, signed.latent))
        to_x = to_weight = None
        scaled = gradient if signed.scale is None else gradient * signed.scale.to(gradient.dtype)
        if ctx.needs_input_grad[3]:
            to_x = torch.empty_like(x, memory_format=torch.contiguous_format)
            multiply(ctx.isa, scaled, transposed, to_x)
        if ctx.needs_input_grad[4]:
            changes = {} if latent is None else {"latent": latent, "most": most, "bound": signed.bound}
            if sums is not None:
                changes |= {"mean": (sums * gradient).sum(0) / x.shape[1], "signs": transposed}
            to_weight = weight_gradient(ctx.isa, scaled if signed.scaled else gradient, x, x_transposed, **changes)
        return None, None, None, to_x, to_weight


def _by_torch(gradient: Tensor, x: Tensor, signed: SignedWeight, signs: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients in operations of torch, which can be differentiated again."""
    numbers = signed.scale, signed.bound, signed.scaled, signed.of_mean
    weight = signs if signed.scale is None else signs * signed.scale[:, None]
    weight = Surrogate.apply(signed.latent, weight, _to_latent, numbers, signs)
    return gradient @ weight.to(x.dtype), _to_latent(gradient.t() @ x, signed.latent, signs, *numbers)


def _to_latent(
    gradient: Tensor, latent: Tensor, signs: Tensor, scale: Tensor | None, bound: float | None, scaled: bool, mean: bool
) -> Tensor:
    """The gradient to the latents of a `SignedWeight` from that to its weight."""
    through = gradient * scale[:, None] if scaled and scale is not None else gradient
    through = through if bound is None else torch.where(latent.abs() > bound, 0, through)
    return through + signs * (gradient * signs).mean(1, keepdim=True) if mean else through


def packed_signs(
    isa: InstructionSet, x: Tensor, seed: tuple[int, ...] = (0, 0), steepness: float = 0.0, of_tanh: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The signs of x (O, I), or a draw as `SignedWeight` has it, as bits.

    Returns:
        (bits in panels of outputs, and in panels of inputs, int32; max|x| of blocks of rows). Lanes of a panel without
        a row have any bits.
    """
    x = x.detach().contiguous()
    words = panel_words(isa, *x.shape), panel_words(isa, *reversed(x.shape))
    panels, transposed = (x.new_empty(size, dtype=torch.int32) for size in words)
    most = x.new_empty(sign_blocks(isa, len(x)), dtype=torch.float32)
    sizes = {"rows": x.shape[0], "columns": x.shape[1], "bf16": x.dtype == torch.bfloat16}
    draw = {"seed": seed, "steepness": steepness, "of_tanh": of_tanh}
    launch(run_signs, isa, SignsStruct, x=x, panels=panels, transposed=transposed, most=most, **sizes, **draw)
    return panels, transposed, most


def unpacked_signs(isa: InstructionSet, transposed: Tensor, like: Tensor) -> Tensor:
    """The ±1 of the second result of `packed_signs` in the shape (O, I) of `like`, in operations of torch."""
    bits = torch.arange(isa.lut_inputs * isa.lut_groups, dtype=torch.int32).view(-1, 1)
    words = transposed.view(-(-like.shape[1] // isa.lanes), -1, 1, isa.lanes)
    signs = (words >> bits & 1).movedim(0, 2).flatten(2).flatten(0, 1)  # words of rows, bits, panels, lanes
    return signs[: like.shape[0], : like.shape[1]] * 2.0 - 1


def multiply(isa: InstructionSet, x: Tensor, panels: Tensor, y: Tensor, **more: Any) -> None:
    """y (N, O) = x (N, I) · signs (O, I)ᵀ."""
    sizes = {"rows": x.shape[0], "inputs": x.shape[1], "outputs": y.shape[1]}
    kinds = {"x_bf16": x.dtype == torch.bfloat16, "y_bf16": y.dtype == torch.bfloat16}
    launch(run_product, isa, ProductStruct, x=x.contiguous(), y=y, panels=panels, **sizes, **kinds, **more)


def weight_gradient(
    isa: InstructionSet, gradient: Tensor, x: Tensor, x_transposed: Tensor | None = None, **changes: Any
) -> Tensor:
    """gradientᵀ · x in float32, (N, O) and (N, I) -> (O, I); products of bfloat16 where both are.

    Args:
        x_transposed: the signs of x, if they are all of it.
        changes: latent, most and bound: 0 where |latent| > bound; mean (O,) and signs, those of inputs of
            `packed_signs`: plus sign(latent)·mean.
    """
    to = x.new_empty(gradient.shape[1], x.shape[1], dtype=torch.float32)
    if "most" in changes:
        changes["most_count"] = len(changes["most"])
    if x_transposed is not None:
        multiply(isa, gradient.t(), x_transposed, to, stream=True, **changes)
        return to
    x, gradient = x.contiguous(), gradient.contiguous()
    sizes = {"rows": x.shape[0], "inputs": x.shape[1], "outputs": gradient.shape[1]}
    kinds = {"x_bf16": x.dtype == torch.bfloat16, "gradient_bf16": gradient.dtype == torch.bfloat16}
    pairs = kinds["x_bf16"] and kinds["gradient_bf16"]
    tensors = {"x": x, "gradient": gradient, "to": to}
    launch(run_dense_gradient, isa, DenseGradientStruct, pairs=pairs, **tensors, **sizes, **kinds, **changes)
    return to
