"""The sign that all of onebit uses, and the base class and building blocks of quantizers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from onebit.common import torch_private
from onebit.common.fields import read, within
from onebit.common.torch_private import is_legacy_batched, transforms_active

Progress = Annotated[float, within("[0, 1]")]
ONE_BF16 = 0x3F80
"""The bits of 1 in bfloat16."""


def is_transformed() -> bool:
    """Whether torch.compile or a transform of torch.func is active: `out=` does not work there."""
    return torch.compiler.is_compiling() or transforms_active()


def in_backward() -> bool:
    """Whether a backward pass runs: a forward pass inside it is repeated by activation checkpointing."""
    return not torch.compiler.is_compiling() and torch_private.in_backward()


def sign(x: Tensor, threshold: Tensor | float = 0) -> Tensor:
    """+1 where x >= threshold (−0.0 >= 0 too), −1 elsewhere, in the dtype of `x`, with the gradient of `SteSign()`.

    `torch.sign` gives 0 at 0 and would make a ternary net. NaN gives +1; packing, inspection and the training loop
    detect it. Two passes into one new tensor; `torch.where` with Python scalars costs ten times as much.

    Args:
        x: real, any shape; the gradient to it is g·1{|x| <= 1}.

    Example:
        >>> x = torch.tensor([-2.0, 0.0, 0.5], requires_grad=True)
        >>> y = sign(x)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-1.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    """
    if has_torch_function_unary(x):  # a traced model calls it as one operation
        return handle_torch_function(sign, (x,), x, threshold)
    if x.requires_grad and torch.is_grad_enabled():
        signs: Tensor = Surrogate.apply(x, sign(x.detach(), threshold), clipped, ())
        return signs
    if is_transformed():
        return 1 - 2 * (x < threshold).to(x.dtype)
    below = torch.empty_like(x)
    torch.lt(x, threshold, out=below)
    if x.is_cuda:  # a tensor that holds 1 would take a kernel to fill
        return torch.rsub(below, 1, alpha=2)
    if x.dtype == torch.bfloat16:
        # 0 or 1 to ±1 by integer arithmetic on the bits, in a third of the time: 256 · 0x3F80 wraps to the sign bit
        bits = below.view(torch.int16)
        torch.add(bits.new_full((), ONE_BF16), bits, alpha=256, out=bits)
        return below
    return torch.sub(x.new_ones(()), below, alpha=2, out=below)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products of `x`: autocast's where it is on, else that of `x`.

    A quantizer returns its ±1 in this dtype, because a cast by autocast would take two more passes over the weights in
    each step. Autocast leaves float64 as it is.
    """
    device = x.device.type
    # torch has no autocast for "meta"
    cast = device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if cast else x.dtype


def random_bits(count: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(count,) uniform integers of `dtype`, cut from random 64-bit words, which is the fastest way."""
    if transforms_active():  # torch 2.11 cannot map a view of another dtype
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max + 1
        return torch.randint(low, high, (count,), dtype=dtype, device=device, generator=generator)
    # the full range: random_() without a range never sets the top bit, which biases one number of each word
    size = (-(-count * dtype.itemsize // 8),)
    words = torch.randint(-(2**63), 2**63 - 1, size, dtype=torch.int64, device=device, generator=generator)
    return words.view(dtype)[:count]


def memory_order(x: Tensor) -> tuple[int, ...]:
    """The dimensions of `x` by falling stride: `x.permute(memory_order(x))` is contiguous for a dense `x`."""
    return tuple(sorted(range(x.dim()), key=x.stride, reverse=True))


class Surrogate(torch.autograd.Function):
    """A result computed from x, with surrogate gradients.

    `Surrogate.apply(x, result, rule, numbers, *tensors)` returns `result`; its backward pass is
    `rule(gradient, x, *tensors, *numbers)`: the gradient to x, or a tuple of those to x and to each tensor.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        # torch.compile passes a context first where no gradient is needed
        result: Tensor = args[1] if isinstance(args[0], Tensor) else args[2]
        return result.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # torch.func needs the two-part form
        x, _, ctx.rule, ctx.numbers, *tensors = inputs
        ctx.save_for_backward(x, *tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        gradients = ctx.rule(gradient, x, *tensors, *ctx.numbers)
        to_x, *others = gradients if isinstance(gradients, tuple) else (gradients, *[None] * len(tensors))
        return to_x, None, None, None, *others

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if is_transformed():
            return super().apply(*args)
        if torch.jit.is_tracing():
            return cls.forward(*args)  # without a gradient: torch.jit.save rejects Python functions
        # skips a search for default arguments, which is half the time that a quantizer adds to a small layer
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


def clipped(gradient: Tensor, x: Tensor, above: Mapping[torch.dtype, float] | None = None) -> Tensor:
    """gradient · 1{|x| <= 1}, or with another bound: `above` has the next number above it, by dtype."""
    # the kernel gives 0 at |x| >= bound; a latent clipped to exactly 1 must be able to return
    bound = 1 + torch.finfo(x.dtype).eps if above is None else above[x.dtype]
    cast = gradient.to(x.dtype)
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or cast is gradient or is_legacy_batched(cast):
        return torch.ops.aten.hardtanh_backward(cast, x, -bound, bound)
    # overwrites the cast: for a large dense layer, another tensor would raise the peak memory of the step
    return torch.ops.aten.hardtanh_backward.grad_input(cast, x, -bound, bound, grad_input=cast)


class BinaryWeight(NamedTuple):
    """The weight that ships: `scale · signs + centre`, two values per output channel or group.

    signs: ±1, the shape of the latent weight.
    scale: (O,), positive, or None for 1; (O, G) for G groups of the inputs of each row.
    `centre`: (O,), or None for 0.
    """

    signs: Tensor
    scale: Tensor | None = None
    centre: Tensor | None = None

    @property
    def grouped(self) -> bool:
        """Whether each row has several scales."""
        return self.scale is not None and self.scale.dim() == 2 and self.scale.shape[1] > 1

    @property
    def by_rows(self) -> bool:
        """Whether a row has the values ±scale, so that a product with the signs, then the scale, is the same."""
        return self.scale is not None and self.centre is None and not self.grouped

    def dense(self) -> Tensor:
        """The real-valued weight `scale · signs + centre`, shape of `signs`."""
        weight = self.signs
        channels = (-1,) + (1,) * (weight.dim() - 1)
        if self.scale is not None and self.grouped:
            weight = (weight.unflatten(1, (self.scale.shape[1], -1)) * self.scale.unsqueeze(2)).flatten(1)
        elif self.scale is not None:
            weight = weight * self.scale.view(channels)
        if self.centre is not None:
            weight = weight + self.centre.view(channels)
        return weight


class SignedWeight(NamedTuple):
    """The weight of one forward pass as `scale · signs`, for products with bits.

    latent: w, (O, I), receives the gradient g to `scale · signs`, with the changes below.
    scale: (O,), or None for 1.
    bound: latents beyond ±bound get no gradient; None for no bound.
    scaled: whether g is multiplied by `scale`.
    of_mean: whether sign(w)·mean(g·sign(w)) of each row is added, the gradient of scale = mean|w|.
    seed, steepness, of_tanh: of a draw, +1 where w · steepness >= r, uniform in [−2**23, 2**23); steepness 0 for the
        sign, of_tanh for tanh(w) · steepness.
    """

    latent: Tensor
    scale: Tensor | None = None
    bound: float | None = None
    scaled: bool = False
    of_mean: bool = False
    seed: tuple[int, ...] = (0, 0)
    steepness: float = 0.0
    of_tanh: bool = False


class BinaryInput(NamedTuple):
    """A binary input quantizer in eval mode: `scale · sign(x − shift) + centre` of x (N, C, …).

    Each field has shape (), for all channels, or (C,).

    shift: None for 0.
    scale: positive, or None for 1.
    `centre`: None for 0.
    """

    shift: Tensor | None = None
    scale: Tensor | None = None
    centre: Tensor | None = None

    def upper(self, output: Tensor) -> Tensor:
        """Where the output (N, C, …) of the quantizer is the upper of its two values: bool, same shape."""
        return output > (0 if self.centre is None else per_channel(self.centre, output))


class IntegerInput(NamedTuple):
    """An input quantizer of few bits in eval mode: `step · clip(round(x/step), least, most)`.

    step: positive, shape (). least, most: integers, least <= 0 < most.
    """

    step: Tensor
    least: int
    most: int


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter of shape () or (C,), shaped to broadcast along axis 1 of x (N, C, …)."""
    return parameter if parameter.dim() == 0 else parameter.view(-1, *[1] * (x.dim() - 2))


class Quantizer(torch.nn.Module):
    """Base of quantizers. For weights: `forward` (latent -> weight used), `decompose` (latent -> what ships).

    In eval mode `forward` equals `decompose(latent).dense()`.
    """

    random = False
    """Whether a forward pass in training draws, so that its BatchNorm statistics do not fit the weights that ship."""
    relaxed = False
    """Whether a forward pass in training uses weights that are not two-valued."""
    repeatable: bool = True
    """Whether another forward pass of the same inputs gives the same and changes nothing, if it is not `random`."""
    separate_rows: bool
    """True in a class whose `forward` makes each row of a weight from its latents alone, and takes some of the rows."""
    latent_bound: float | None = None
    """The bound ±b to which latents are clipped, None for no bound."""
    start: float = 0.5
    """When latents start from given signs: their magnitude, as a share of `latent_bound`, or of 1 if there is none."""

    @property
    def shipped(self) -> Quantizer:
        """The quantizer of the weights that ship."""
        return self

    @property
    def start_size(self) -> float:
        """Magnitude of latents that begin with given signs."""
        return self.start * (self.latent_bound or 1.0)

    def bind(self, latent: Tensor) -> None:
        """Called once by the layer of `latent` (O, …): make the parameters that depend on its shape."""

    def set_progress(self, progress: float) -> None:
        """Called before each training step with the share of steps done, in [0, 1): follow a schedule."""

    def decompose(self, latent: Tensor) -> BinaryWeight:
        """Signs, scale and centre of the weight that ships; for most methods sign(latent)."""
        return BinaryWeight(sign(latent.detach()))

    def signed_weight(self, latent: Tensor) -> SignedWeight | None:
        """`forward` of latents (O, I) in training, with the same gradient; None if that is not two-valued."""
        return None

    def surrogate(self) -> tuple[Any, ...] | None:
        """A function and its parameters p, if `forward` is sign(x) with the gradient function(gradient, x, *p)."""
        return None

    def binary_input(self) -> BinaryInput | None:
        """The forward pass of inputs in eval mode; None if its outputs are not binary."""
        return None

    def integer_input(self) -> IntegerInput | None:
        """The forward pass of inputs in eval mode; None if its outputs are not integers of few bits."""
        return None

    def sample(self, latent: Tensor, *, generator: torch.Generator | None = None) -> BinaryWeight | None:
        """One random draw of the weights, or None if the method draws nothing."""
        return None

    def options(self) -> dict[str, float | str]:
        """The arguments of the quantizer that are numbers or names."""
        arguments = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        return {name: value for name, value in arguments.items() if isinstance(value, (int, float, str))}

    def extra_repr(self) -> str:
        # checkpoints compare this text: 1 and 1.0 must agree
        texts = {name: f"{x:g}" if type(x) in (int, float) else repr(x) for name, x in self.options().items()}
        return ", ".join(f"{name}={text}" for name, text in texts.items())


class Scheduled(Quantizer):
    """A quantizer with a number that follows a schedule, in a buffer outside the state_dict.

    It is a buffer because a changed Python number would recompile the model. `to_empty` leaves the memory of buffers
    uninitialized, so the number is written again.

    Args:
        name: of the buffer.
        number: its first value.
    """

    def __init__(self, name: str, number: float) -> None:
        super().__init__()
        self.scheduled = name, number
        self.register_buffer(name, torch.tensor(number), persistent=False)

    def set_scheduled(self, number: float) -> None:
        """Set the number."""
        self.scheduled = self.scheduled[0], number
        getattr(self, self.scheduled[0]).fill_(number)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)
        self.set_scheduled(self.scheduled[1])
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        name, number = self.scheduled
        if getattr(self, name).is_meta:  # `load_state_dict(state, assign=True)` replaces only what is in the state
            setattr(self, name, torch.tensor(number, device="cpu"))


def scheduled(model: torch.nn.Module) -> list[Any]:
    """The quantizers of a model that follow the progress of training."""
    return [
        module
        for module in model.modules()
        if getattr(type(module), "set_progress", Quantizer.set_progress) is not Quantizer.set_progress
    ]


def set_progress(model: torch.nn.Module, progress: float) -> None:
    """Set the progress of training that quantizers of IR-Net, AdaBin and ReCU follow.

    `fit` does this; a custom training loop calls it before each step.

    Args:
        progress: steps done / all steps, in [0, 1].

    Raises:
        UsageError: another number.
    """
    progress = read(progress, Progress, name="progress")
    for quantizer in scheduled(model):
        quantizer.set_progress(progress)
