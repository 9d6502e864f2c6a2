"""The binary concrete weight of BayesBiNN (Meng, Bachmann, Khan 2020, arXiv:2002.10778)."""

from __future__ import annotations

import torch
from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.native import ConcreteStruct, InstructionSet, run_values
from onebit.quantizers.base import BinaryWeight, Quantizer, Surrogate, autocast_dtype, random_bits, sign
from onebit.quantizers.chunks import in_chunks
from onebit.quantizers.kernel_calls import backward_kernels, is_dense, is_plain_training, kernels, launch

EPSILON = 1e-10
"""Added to 1 − w² and to 1 − tanh²λ, as the authors' code does."""
SATURATED = 9.5
"""|z| from which tanh z is ±1 exactly in float32, with some room: it is so from 9.02."""
MOST_NEAR = 1e-6
"""Distance of u and p up to which the kernel may ask whether a weight is not ±1: of few draws in millions."""


def variance(latent: Tensor) -> Tensor:
    """1 − tanh²λ + 1e-10, shape of the latent: the variance of a weight, as the slope is divided by it."""
    return 1 - latent.tanh().square() + EPSILON


def _kernels(latent: Tensor) -> InstructionSet | None:
    """The instruction set whose kernel draws and differentiates such latents."""
    if not is_plain_training(latent) or latent.dtype != torch.float32 or not is_dense(latent):
        return None
    return kernels("run_concrete")


def _gradient(gradient: Tensor, latent: Tensor, relaxed: Tensor | None, temperature: float) -> Tensor:
    """The gradient times s' = (1 − w² + 1e-10)/(T·(1 − tanh²λ + 1e-10)); `relaxed` is w, None where all of it is ±1."""
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
    """u, uniform on the middles of 65,536 steps of (0, 1): probabilities are exact to 1e-5, and |δ| <= 5.9."""
    noise = random_bits(like.numel(), torch.int16, like.device, generator).view(like.shape)
    return noise.to(like.dtype).mul_(2.0**-16).add_(0.5 + 2.0**-17)


def _draw_signs(
    latent: Tensor, temperature: float, generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor | None:
    """w = tanh((λ + δ)/T) in one pass where all of it is ±1; None, and nothing drawn, if it is not or without a kernel.

    With p = sigmoid(−2λ), which is what u must exceed for a positive w, |λ + δ| = ½·|logit(u) − logit(p)| >= 2·|u − p|:
    at a low temperature this tells that tanh is ±1.
    """
    near = SATURATED * temperature / 2
    isa = _kernels(latent)
    if isa is None or near > MOST_NEAR or dtype not in (torch.bfloat16, torch.float32):
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
    """BayesBiNN: the latent is λ, with p(+1) = sigmoid(2λ); a relaxed draw in training, then sign(λ).

    Training: w = tanh((λ + δ)/T), δ = ½·log(u/(1 − u)), u uniform in (0, 1), a new one for each pass. The
    gradient g of the loss comes back as g·s' with s' = (1 − w² + 1e-10)/(T·(1 − tanh²λ + 1e-10)) and tanh²λ of
    the λ of this pass. Float32 by definition: 1 − tanh²(10) is 0 there, so s' is about 1e10. `onebit.optim.BayesBiNN`
    is the optimizer that takes such gradients.

    Eval: sign(λ), which is what ships, with the s' of w = ±1.

    Args:
        temperature: T; at 1e-10 all but one draw in millions are ±1.
        generator: source of the draws; None for torch's default generator, the only one whose draws activation
            checkpointing repeats.

    Raises:
        UsageError: a temperature that is not positive.
    """

    random = True
    start = 10.0  # as the authors begin; nearer to 0 the draws are other signs

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
            weight = relaxed.to(dtype, copy=True)  # a compiled graph takes no tensor twice
        return Surrogate.apply(latent, weight, _gradient, (self.temperature,), relaxed)

    def sample(self, latent: Tensor, *, generator: torch.Generator | None = None) -> BinaryWeight:
        """±1 with p(+1) = sigmoid(2λ)."""
        latent = latent.detach()
        wide = latent.to(torch.promote_types(latent.dtype, torch.float32))
        return BinaryWeight(sign(_uniform(wide, generator).logit_().add_(wide, alpha=2)).to(latent.dtype))

    def mean(self, latent: Tensor) -> Tensor:
        """The posterior mean tanh λ of the weights, shape of the latent."""
        return latent.detach().tanh()
