"""The binary concrete weight of BayesBiNN (Meng, Bachmann, Khan 2020, arXiv:2002.10778)."""

from __future__ import annotations

import torch
from torch import Tensor

from onebit.quantizers.base import BinaryWeight, Quantizer, Surrogate, autocast_dtype, check_positive, sign
from onebit.quantizers.chunks import in_chunks

EPSILON = 1e-10
"""Added to 1 − w² and to 1 − tanh²λ, as the authors' code does."""
SATURATED = {torch.float32: 9.5, torch.float64: 20.0}
"""|z| from which tanh z is ±1 exactly, with some room: it is so from 9.02, and from 19.07."""
COLD = 1e-6
"""Distance of u and p below which it pays to look whether any weight of a piece is not ±1."""
HUGE = 1e30
FAR = 30.0
"""|z| from which sigmoid(z) is 0 or 1 for every use here; for latents of millions it takes six times as long."""


def _slope(latent: Tensor, relaxed: Tensor | None, temperature: float) -> Tensor:
    """s' = (1 − w² + 1e-10)/(T·(1 − tanh²λ + 1e-10)); `relaxed` is w, None where all of it is ±1."""
    above = EPSILON if relaxed is None else 1 - relaxed.square() + EPSILON
    return above / temperature / (1 - latent.tanh().square() + EPSILON)


def _times_slope(gradient: Tensor, latent: Tensor, relaxed: Tensor | None, temperature: float) -> Tensor:
    """`_slope` times the gradient, in float32, without torch's tanh, which takes three times as long.

    |tanh λ| = 1 − 2·sigmoid(−2|λ|) rounds as tanh itself does: the difference is one correctly rounded subtraction.
    """
    scaled = torch.empty_like(latent)
    tensors = (scaled, latent, gradient) if relaxed is None else (scaled, latent, gradient, relaxed)
    one = latent.new_ones(())
    for out, x, g, *rest in in_chunks(*tensors):
        torch.sub(one, torch.abs(x, out=out).mul_(-2.0).clamp_(min=-FAR).sigmoid_(), alpha=2, out=out)
        torch.addcmul(one, out, out, value=-1, out=out).add_(EPSILON)
        torch.div(g.to(out.dtype), out, out=out)
        for w in rest:
            out.mul_(torch.addcmul(one, w, w, value=-1).add_(EPSILON))
        factor = (1.0 if rest else EPSILON) / temperature
        if factor != 1:
            out.mul_(factor)
    return scaled


class _ConcreteGradient(Surrogate):
    """`weight`, made from `latent`, with the gradient multiplied by `_slope`."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        latent, _, relaxed, ctx.temperature = inputs
        ctx.save_for_backward(latent, relaxed)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        latent, relaxed = ctx.saved_tensors
        wide = torch.promote_types(latent.dtype, torch.float32)
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or latent.dtype != torch.float32
        if plain or torch._C._are_functorch_transforms_active():
            slope = _slope(latent.to(wide), None if relaxed is None else relaxed.to(wide), ctx.temperature)
            return (gradient.to(wide) * slope).to(latent.dtype), None, None, None
        return _times_slope(gradient, latent, relaxed, ctx.temperature), None, None, None


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """u, uniform on the middles of 65,536 steps of (0, 1): probabilities are exact to 1e-5, and |δ| <= 5.9.

    Sixteen bits each, cut from random 64-bit words: half of what `torch.rand` costs.
    """
    words = torch.randint(
        -(2**63), 2**63 - 1, ((like.numel() + 3) // 4,), dtype=torch.int64, device=like.device, generator=generator
    )
    return words.view(torch.int16)[: like.numel()].view(like.shape).to(like.dtype).mul_(2.0**-16).add_(0.5 + 2.0**-17)


def _draw(latent: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
    """w = tanh((λ + δ)/T), and w once more, or None where all of it is ±1.

    With p = sigmoid(−2λ), which is what u must exceed for a positive w, |λ + δ| = ½·|logit(u) − logit(p)| >= 2·|u − p|:
    at a low temperature this tells cheaply that tanh is ±1 throughout.
    """
    weight = torch.empty_like(latent)
    near = SATURATED[latent.dtype] * temperature / 2
    cold = near < COLD and latent.device.type == "cpu"  # a GPU would have to be waited for
    relaxed = False
    for w, x in in_chunks(weight, latent):
        u = _uniform(w, generator)
        if cold and w.numel():
            torch.sub(u, torch.mul(x, -2.0, out=w).clamp_(-FAR, FAR).sigmoid_(), out=w)
        if cold and w.numel() and float(w.abs().min()) >= near:
            w.mul_(HUGE).clamp_(-1, 1)
        else:
            torch.add(u.logit_(), x, alpha=2, out=w).div_(2 * temperature).tanh_()
            relaxed = True
    return weight, weight if relaxed else None


class ConcreteSign(Quantizer):
    """BayesBiNN: the latent is λ, with p(+1) = sigmoid(2λ); a relaxed draw in training, then sign(λ).

    Training: w = tanh((λ + δ)/T), δ = ½·log(u/(1 − u)), u uniform in (0, 1), a new one for each pass. The
    gradient g of the loss comes back as g·s' with s' = (1 − w² + 1e-10)/(T·(1 − tanh²λ + 1e-10)) and tanh²λ of
    the λ of this pass. Float32 by definition: 1 − tanh²(10) is 0 there, so s' is about 1e10. `onebit.optim.BayesBiNN`
    is the optimizer that takes such gradients.

    Eval: sign(λ), which is what ships, with the s' of w = ±1.

    Args:
        temperature: T; at 1e-10 all but one draw in millions are ±1.
        generator: source of the draws; torch's default generator when None.

    Raises:
        UsageError: a temperature that is not positive.
    """

    random = True
    start = 10.0  # as the authors begin; nearer to 0 the draws are other signs

    def __init__(self, temperature: float = 1e-10, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.generator = generator

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) λ -> (O, …) weights in [−1, 1]: relaxed draws in training, signs in eval mode."""
        wide = latent.detach().to(torch.promote_types(latent.dtype, torch.float32))
        relaxed = None
        if not self.training:
            weight = sign(wide)
        elif torch.compiler.is_compiling():
            noise = _uniform(wide, self.generator).logit()
            relaxed = ((noise + 2 * wide) / (2 * self.temperature)).tanh()
            weight = relaxed.clone()  # a compiled graph takes no tensor twice
        else:
            weight, relaxed = _draw(wide, self.temperature, self.generator)
        return _ConcreteGradient.apply(latent, weight.to(autocast_dtype(latent)), relaxed, self.temperature)

    def sample(self, latent: Tensor, *, generator: torch.Generator | None = None) -> BinaryWeight:
        """±1 with p(+1) = sigmoid(2λ)."""
        latent = latent.detach()
        wide = latent.to(torch.promote_types(latent.dtype, torch.float32))
        return BinaryWeight(sign(_uniform(wide, generator).logit_().add_(wide, alpha=2)).to(latent.dtype))

    def mean(self, latent: Tensor) -> Tensor:
        """The posterior mean tanh λ of the weights, shape of the latent."""
        return latent.detach().tanh()
