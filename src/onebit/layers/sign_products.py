"""Products of a training step with weights of ±1 on the CPU, by lookups of sums (see native/csrc/training/product.h).

A forward pass reads the latents once and keeps their signs as bits, in panels for the product and for the gradient to
the inputs; the gradient to the weights is a real product. Results are those of torch up to rounding, and do not depend
on the number of threads. `signed_linear` is for `BinaryLinear`, which calls `torch.nn.functional.linear` where
`suits` is false: other devices and dtypes, small layers, compiled or traced models, and without the native library
(`ONEBIT_NATIVE=0`).
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
from onebit.quantizers.base import autocast_dtype
from onebit.quantizers.cpu_kernels import is_plain_training, kernels, launch

LEAST_OUTPUTS = 16
LEAST_PRODUCTS = {torch.float32: 1 << 25, torch.bfloat16: 1 << 27}
"""Rows × weights, by the dtype of the product, below which torch is as fast; for inputs that are signs a quarter."""


def suits(x: Tensor, weight: Tensor, *, signs: bool) -> bool:
    """Whether the kernels are faster for this input (…, I) and float32 latents (O, I) of a training step.

    Args:
        signs: whether the product has all inputs ±1.
    """
    return (
        is_plain_training(x)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.layout == torch.strided
        and x.numel() > 0
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.is_contiguous()
        and x.shape[-1] == weight.shape[1]
        and weight.shape[0] >= LEAST_OUTPUTS
        and torch.is_grad_enabled()
        and x.numel() * len(weight) >= LEAST_PRODUCTS.get(autocast_dtype(x), math.inf) / (4 if signs else 1)
        and kernels("run_product") is not None
    )


def signed_linear(x: Tensor, signed: SignedWeight, *, signs: bool = False) -> Tensor:
    """x · Wᵀ for x (…, I) and the weight (O, I) of `signed`; in bfloat16 under autocast, as `linear`.

    Args:
        signs: whether all of x is ±1.
    """
    x = x.to(autocast_dtype(x))
    rows = x.reshape(-1, x.shape[-1])
    bits = torch.ops.onebit.pack_signs(signed.source, signed.seed, signed.steepness, signed.of_tanh)
    of_x = torch.ops.onebit.pack_signs(rows.detach(), (0, 0), 0.0)[:2] if signs else (None, None)
    y = torch.ops.onebit.signed_linear(rows, signed.weight, *bits, *of_x, signed.scale, signed.bound)
    return y.view(*x.shape[:-1], -1)


_LIBRARY = torch.library.Library("onebit", "FRAGMENT")
_LIBRARY.define("pack_signs(Tensor x, int[] seed, float steepness, bool of_tanh=False) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define(
    "signed_linear(Tensor x, Tensor weight, Tensor panels, Tensor transposed, Tensor? most, Tensor? x_panels, "
    "Tensor? x_transposed, Tensor? scale, float? bound) -> Tensor"
)
_LIBRARY.define(
    "dense_gradient(Tensor gradient, Tensor x, Tensor? x_transposed, Tensor? weight, Tensor? most, float? bound) "
    "-> Tensor"
)


def _isa() -> InstructionSet:
    isa = kernels("run_product")
    assert isa is not None
    return isa


@torch.library.impl(_LIBRARY, "pack_signs", "CPU")
def _pack_signs(x: Tensor, seed: list[int], steepness: float, of_tanh: bool = False) -> tuple[Tensor, ...]:
    """(O, I) -> the bits of x >= 0 in panels of outputs, and in panels of inputs: int32; max|x| of blocks of rows."""
    x = x.detach().contiguous()
    panels, transposed, most = (made.zero_() for made in _panels(x))  # lanes without a row are not written
    sizes = {"rows": x.shape[0], "columns": x.shape[1], "bf16": x.dtype == torch.bfloat16}
    draw = {"seed": tuple(seed), "steepness": steepness, "of_tanh": of_tanh}
    launch(run_signs, _isa(), SignsStruct, x=x, panels=panels, transposed=transposed, most=most, **sizes, **draw)
    return panels, transposed, most


@torch.library.register_fake("onebit::pack_signs", lib=_LIBRARY)
def _panels(x: Tensor, *given: Any) -> tuple[Tensor, ...]:
    isa = _isa()
    words = panel_words(isa, *x.shape), panel_words(isa, *reversed(x.shape))
    return *(x.new_empty(size, dtype=torch.int32) for size in words), x.new_empty(
        sign_blocks(isa, len(x)), dtype=torch.float32
    )


@torch.library.impl(_LIBRARY, "signed_linear", "CPU")
def _signed_linear(
    x: Tensor,
    weight: Tensor,
    panels: Tensor,
    transposed: Tensor,
    most: Tensor | None,
    x_panels: Tensor | None,
    x_transposed: Tensor | None,
    scale: Tensor | None,
    bound: float | None,
) -> Tensor:
    """(N, I) -> (N, O). weight: (O, I), receives the gradient, 0 where it is beyond ±bound."""
    y = x.new_empty(x.shape[0], weight.shape[0])
    _multiply(x, panels, y, x_panels=x_panels, scale=scale)
    return y


def _multiply(x: Tensor, panels: Tensor, y: Tensor, **more: Any) -> None:
    sizes = {"rows": x.shape[0], "inputs": x.shape[1], "outputs": y.shape[1]}
    kinds = {"x_bf16": x.dtype == torch.bfloat16, "y_bf16": y.dtype == torch.bfloat16}
    launch(run_product, _isa(), ProductStruct, x=x.contiguous(), y=y, panels=panels, **sizes, **kinds, **more)


@torch.library.register_fake("onebit::signed_linear", lib=_LIBRARY)
def _fake_linear(x: Tensor, weight: Tensor, *given: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.bound = inputs
    ctx.save_for_backward(*tensors)


def _propagate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, panels, transposed, most, _, x_transposed, scale = ctx.saved_tensors
    to_x = to_weight = None
    if ctx.needs_input_grad[0]:
        scaled = gradient if scale is None else gradient * scale.to(gradient.dtype)
        to_x = torch.ops.onebit.signed_linear(scaled, weight.t(), transposed, panels, None, None, None, None, None)
    if ctx.needs_input_grad[1]:
        cut = None if ctx.bound is None else weight
        to_weight = torch.ops.onebit.dense_gradient(gradient, x, x_transposed, cut, most, ctx.bound).to(weight.dtype)
    return to_x, to_weight, None, None, None, None, None, None, None


torch.library.register_autograd("onebit::signed_linear", _propagate, setup_context=_save, lib=_LIBRARY)


@torch.library.impl(_LIBRARY, "dense_gradient", "CPU")
def _dense_gradient(
    gradient: Tensor,
    x: Tensor,
    x_transposed: Tensor | None,
    weight: Tensor | None,
    most: Tensor | None,
    bound: float | None,
) -> Tensor:
    """gradientᵀ · x in float32, (N, O) and (N, I) -> (O, I), 0 where |weight| > bound.

    Products of bfloat16 where both are. x_transposed: the signs of x, if they are all of it.
    """
    to = x.new_empty(gradient.shape[1], x.shape[1], dtype=torch.float32)
    cut = {"latent": weight, "most": most, "most_count": 0 if most is None else len(most), "bound": bound or 0.0}
    if x_transposed is not None:
        _multiply(gradient.t(), x_transposed, to, stream=True, **cut)
        return to
    x, gradient = x.contiguous(), gradient.contiguous()
    sizes = {"rows": x.shape[0], "inputs": x.shape[1], "outputs": gradient.shape[1]}
    kinds = {"x_bf16": x.dtype == torch.bfloat16, "gradient_bf16": gradient.dtype == torch.bfloat16}
    pairs = kinds["x_bf16"] and kinds["gradient_bf16"]
    tensors = {"x": x, "gradient": gradient, "to": to}
    launch(run_dense_gradient, _isa(), DenseGradientStruct, pairs=pairs, **tensors, **sizes, **kinds, **cut)
    return to


@torch.library.register_fake("onebit::dense_gradient", lib=_LIBRARY)
def _fake_gradient(gradient: Tensor, x: Tensor, *given: Any) -> Tensor:
    return x.new_empty(gradient.shape[1], x.shape[1], dtype=torch.float32)
