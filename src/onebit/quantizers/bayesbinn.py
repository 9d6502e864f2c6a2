"""The binary concrete weight of BayesBiNN (Meng, Bachmann, Khan 2020, arXiv:2002.10778)."""

from __future__ import annotations

import torch
from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.native import ConcreteStruct, InstructionSet, run_values
from onebit.quantizers.base import BinaryWeight, Quantizer, SignedWeight, Surrogate, autocast_dtype, random_bits, sign
from onebit.quantizers.chunks import in_chunks
from onebit.quantizers.cpu_kernels import backward_kernels, is_dense, is_plain_training, kernels, launch

EPSILON = 1e-10
"""Added to 1 − w² and to 1 − tanh²λ, as in the authors' code."""
SATURATED = 9.5
"""|z| from which tanh z is taken as ±1; in float32 it is exactly ±1 from 9.02."""
MAX_NEAR = 1e-6
"""The largest distance of u and p at which the kernel checks for a weight that is not ±1: rare draws only."""


def variance(latent: Tensor) -> Tensor:
    """1 − tanh²λ + 1e-10: the variance of a weight, a divisor of the slope."""
    return 1 - latent.tanh().square() + EPSILON


def _kernels(latent: Tensor) -> InstructionSet | None:
    """The instruction set with the kernels for such latents."""
    if not is_plain_training(latent) or latent.dtype != torch.float32 or not is_dense(latent):
        return None
    return kernels("run_concrete")


def _gradient(gradient: Tensor, latent: Tensor, relaxed: Tensor | None, temperature: float) -> Tensor:
    """The gradient times s' = (1 − w² + 1e-10)/(T·(1 − tanh²λ + 1e-10)); `relaxed` is w, None if all of it is ±1."""
    isa = backward_kernels("run_concrete", gradient, latent.detach()) if relaxed is None else None
    if isa is not None and latent.dtype == torch.float32:
        scaled = torch.empty_like(latent)
        fields = {"bf16": gradient.dtype == torch.bfloat16, "epsilon": EPSILON, "factor": EPSILON / temperature}
        launch(run_values, isa, ConcreteStruct, latent.numel(), latent=latent, gradient=gradient, to=scaled, **fields)
        return scaled
    wide = torch.promote_types(latent.dtype, torch.float32)
    above = EPSILON if relaxed is None else 1 - relaxed.square() + EPSILON
    return (gradient.to(wide) * (above / temperature / variance(latent.to(wide)))).to(latent.dtype)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """u, uniform on the centers of 65,536 steps of (0, 1): probabilities are exact to 1e-5, and |δ| <= 5.9."""
    noise = random_bits(like.numel(), torch.int16, like.device, generator).view(like.shape)
    return noise.to(like.dtype).mul_(2.0**-16).add_(0.5 + 2.0**-17)


def _draw_signs(
    latent: Tensor, temperature: float, generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor | None:
    """w = tanh((λ + δ)/T) in one pass if all of it is ±1; else, or without a kernel, None and an unchanged generator.

    w is positive where u > p = sigmoid(−2λ), and |λ + δ| = ½·|logit(u) − logit(p)| >= 2·|u − p| bounds |w| from below.
    """
    near = SATURATED * temperature / 2
    isa = _kernels(latent)
    if isa is None or near > MAX_NEAR or dtype not in (torch.bfloat16, torch.float32):
        return None
    source = torch.default_generator if generator is None else generator
    before = source.get_state()
    signs = torch.empty_like(latent, dtype=dtype)
    fields = {"bf16": dtype == torch.bfloat16, "near": near}
    for w, x in in_chunks(signs, latent):
        noise = random_bits(x.numel(), torch.int16, x.device, source)
        if launch(run_values, isa, ConcreteStruct, x.numel(), latent=x, noise=noise, to=w, **fields):
            source.set_state(before)
            return None
    return signs


class ConcreteSign(Quantizer):
    """BayesBiNN: the latent is λ, with p(+1) = sigmoid(2λ); relaxed draws in training, sign(λ) in eval mode.

    Training: w = tanh((λ + δ)/T), δ = ½·log(u/(1 − u)), with u uniform in (0, 1), drawn for each pass. The gradient is
    g·s' with s' = (1 − w² + 1e-10)/(T·(1 − tanh²λ + 1e-10)), in float32 by definition: 1 − tanh²(10) is 0 there, so s'
    is about 1e10. `onebit.optim.BayesBiNN` is the optimizer for such gradients.

    Eval: sign(λ), which ships, with the s' of w = ±1.

    Args:
        temperature: T; at 1e-10 all but one draw in millions are ±1.
        generator: source of the draws; None for torch's default generator, the only one that activation checkpointing
            restores.

    Raises:
        UsageError: a temperature that is not positive.
    """

    random = True
    start = 10.0  # as in the authors' code; closer to 0 the draws would flip signs

    def __init__(self, temperature: float = 1e-10, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.temperature = read(temperature, Positive, name="temperature")
        self.generator = generator

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) λ -> (O, …) weights in [−1, 1]: relaxed draws in training, signs in eval mode."""
        wide = latent.detach().to(torch.promote_types(latent.dtype, torch.float32))
        dtype = autocast_dtype(latent)
        relaxed = None
        if not self.training:
            weight = sign(wide).to(dtype)
        elif (signs := _draw_signs(wide, self.temperature, self.generator, dtype)) is not None:
            weight = signs
        else:
            noise = _uniform(wide, self.generator).logit()
            relaxed = ((noise + 2 * wide) / (2 * self.temperature)).tanh()
            weight = relaxed.to(dtype, copy=True)  # torch.compile does not accept a tensor twice
        return Surrogate.apply(latent, weight, _gradient, (self.temperature,), relaxed)

    def signed_weight(self, latent: Tensor) -> SignedWeight | None:
        if SATURATED * self.temperature / 2 > MAX_NEAR:
            return None
        weight = Surrogate.apply(latent, latent, _gradient, (self.temperature,), None)
        seed = tuple(random_bits(2, torch.int32, latent.device, self.generator).tolist())
        return SignedWeight(weight, seed=seed, steepness=2.0**23, of_tanh=True)

    def sample(self, latent: Tensor, *, generator: torch.Generator | None = None) -> BinaryWeight:
        """±1 with p(+1) = sigmoid(2λ)."""
        latent = latent.detach()
        wide = latent.to(torch.promote_types(latent.dtype, torch.float32))
        return BinaryWeight(sign(_uniform(wide, generator).logit_().add_(wide, alpha=2)).to(latent.dtype))

    def mean(self, latent: Tensor) -> Tensor:
        """The posterior mean tanh λ of the weights, shape of the latent."""
        return latent.detach().tanh()
