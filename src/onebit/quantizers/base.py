"""What every quantizer shares: the one sign of the package and the parts a quantizer is made of."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onebit.common import torch_private
from onebit.common.torch_private import transforms_active
from onebit.errors import TrainingError, UsageError

ONE_BF16 = 0x3F80
"""The bits of 1 in bfloat16."""


def is_transformed() -> bool:
    """Whether torch.compile or a transform of torch.func follows the operations: `out=` does not work there."""
    return torch.compiler.is_compiling() or transforms_active()


def in_backward() -> bool:
    """Whether a backward pass runs: a forward pass within one is the second of activation checkpointing."""
    return not torch.compiler.is_compiling() and torch_private.in_backward()


def sign(x: Tensor, threshold: Tensor | float = 0) -> Tensor:
    """+1 where x >= threshold (−0.0 >= 0 too), −1 elsewhere, in the dtype of `x`.

    `torch.sign` gives 0 at 0 and would make a ternary net. NaN gives +1: a forward pass does not look for NaN; packing,
    inspection and the loss check of the training loop do. Two passes into one new tensor; `torch.where` with Python
    scalars costs ten times as much.

    Args:
        x: real, any shape.
    """
    if is_transformed():
        return 1 - 2 * (x < threshold).to(x.dtype)
    below = torch.empty_like(x)
    torch.lt(x, threshold, out=below)
    if x.is_cuda:  # a tensor that holds 1 would take a kernel to fill
        return torch.rsub(below, 1, alpha=2)
    if x.dtype == torch.bfloat16:
        # 0 or 1 to ±1 in the bits, a third of the time of bfloat16 arithmetic: 256 times those of 1 wrap to the sign
        bits = below.view(torch.int16)
        torch.add(bits.new_full((), ONE_BF16), bits, alpha=256, out=bits)
        return below
    return torch.sub(x.new_ones(()), below, alpha=2, out=below)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products will use for `x`: autocast's where it is on, else that of `x`.

    A quantizer returns its ±1 in this dtype. Left to autocast, the cast of tensors other than parameters takes two
    more passes over the weights in each step. Autocast leaves float64 as it is.
    """
    kind = x.device.type
    # torch has no autocast for "meta", where shapes are followed without numbers
    cast = kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def random_bits(count: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(count,) integers of few bits, all equally likely, cut from random 64-bit words, which costs the least.

    Args:
        dtype: an integer type; count: how many numbers of it.
        generator: torch's default generator of the device when None.
    """
    if transforms_active():  # torch 2.11 maps no view of another dtype
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max + 1
        return torch.randint(low, high, (count,), dtype=dtype, device=device, generator=generator)
    # the full range: random_() without a range never sets the top bit, which biases one number of each word
    size = (-(-count * dtype.itemsize // 8),)
    words = torch.randint(-(2**63), 2**63 - 1, size, dtype=torch.int64, device=device, generator=generator)
    return words.view(dtype)[:count]


def memory_order(x: Tensor) -> tuple[int, ...]:
    """The dimensions of `x` from the largest stride to the smallest: `x.permute(memory_order(x))` is contiguous.

    That view is the fast way through a channels_last weight beside a fresh tensor.
    """
    return tuple(sorted(range(x.dim()), key=x.stride, reverse=True))


class Surrogate(torch.autograd.Function):
    """`result`, which was made from x, with the gradients of a rule.

    `Surrogate.apply(x, result, rule, numbers, *tensors)`: the backward pass is `rule(gradient, x, *tensors, *numbers)`,
    the gradient to x, or a tuple of those to x and to each tensor.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        # where no gradient is needed, torch.compile puts a context before them; with named parameters it does so or
        # not by their number, and the result would be `x`
        result: Tensor = args[1] if isinstance(args[0], Tensor) else args[2]
        return result.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # torch.func needs the two-part form
        x, _, ctx.rule, ctx.numbers, *tensors = inputs
        ctx.save_for_backward(x, *tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        found = ctx.rule(gradient, x, *tensors, *ctx.numbers)
        to_x, *others = found if isinstance(found, tuple) else (found, *[None] * len(tensors))
        return to_x, None, None, None, *others

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if is_transformed():
            return super().apply(*args)
        if torch.jit.is_tracing():
            return cls.forward(*args)  # without a gradient: torch.jit.save refuses functions of Python
        # without its search for default arguments, half of the time that a quantizer adds to a small layer
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


class BinaryWeight(NamedTuple):
    """What ships of a layer: `scale · signs + center`, two values per output channel.

    signs: ±1, the shape of the latent weight.
    scale: (O,), positive, or None for 1.
    `centre`: (O,), or None for 0.
    """

    signs: Tensor
    scale: Tensor | None = None
    centre: Tensor | None = None

    def dense(self) -> Tensor:
        """The real-valued weight `scale · signs + center`, shape of `signs`."""
        weight = self.signs
        channels = (-1,) + (1,) * (weight.dim() - 1)
        if self.scale is not None:
            weight = weight * self.scale.view(channels)
        if self.centre is not None:
            weight = weight + self.centre.view(channels)
        return weight


class BinaryInput(NamedTuple):
    """What an input quantizer computes in eval mode: `scale · sign(x − shift) + center` of x (N, C, …).

    Each is a number for all channels, shape (), or one per channel, (C,).

    shift: None for 0.
    scale: positive, or None for 1.
    `centre`: None for 0.
    """

    shift: Tensor | None = None
    scale: Tensor | None = None
    centre: Tensor | None = None

    def upper(self, output: Tensor) -> Tensor:
        """Where what the quantizer gave is the upper of its two values: bool, shape of `output` (N, C, …)."""
        return output > (0 if self.centre is None else per_channel(self.centre, output))


class IntegerInput(NamedTuple):
    """What an input quantizer of few bits computes in eval mode: `step · clip(round(x/step), least, most)`.

    step: positive, shape (). least, most: integers, least <= 0 < most.
    """

    step: Tensor
    least: int
    most: int


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter of shape () or (C,), shaped to broadcast along axis 1 of x (N, C, …)."""
    return parameter if parameter.dim() == 0 else parameter.view(-1, *[1] * (x.dim() - 2))


class Prepared:
    """The weight of the next forward pass, an attribute of its latent; it fits until the latent is written again.

    value, random: of the quantizer whose weight it is: layers with others may share the latent.
    passes: that began since. The weight serves the first, and stays for activation checkpointing, which repeats it
        within the backward pass.
    Writes are seen as autograd sees them, by the version counter: one through `latent.data` goes unnoticed.
    """

    def __init__(self, latent: Tensor, weight: Tensor, value: float = 1.0, random: bool = False) -> None:
        self.weight, self.kind, self.passes = weight, (value, random), 0
        self.version, self.address = latent._version, latent.data_ptr()  # another storage keeps the version

    def fits(self, latent: Tensor, quantizer: Quantizer) -> bool:
        """Whether `latent` is unchanged, and the weight is that of this forward pass or has the dtype of the latent."""
        same = self.kind == (quantizer.value, quantizer.random)
        same = same and (self.version, self.address) == (latent._version, latent.data_ptr())
        return same and self.weight.dtype in (autocast_dtype(latent), latent.dtype)

    def __reduce__(self) -> tuple[type[set[Any]], tuple[()]]:
        # a copy holds other Parameters: it begins with nothing, in a form that `torch.load` takes with weights_only
        return set, ()


class Quantizer(torch.nn.Module):
    """Base of weight quantizers: `forward` (latent -> weight used), `decompose` (latent -> what ships).

    In eval mode `forward` equals `decompose(latent).dense()`. `random` says that a forward pass in training draws, so
    that BatchNorm statistics of training do not belong to the weights that ship; `relaxed` says the same of a forward
    pass in training whose weights are not two-valued.
    """

    random = False
    relaxed = False
    repeatable: bool = True
    """Whether a second forward pass of the same inputs gives the same and changes nothing, if it is not `random`."""
    latent_bound: float | None = None
    """The bound ±b inside which latents are meant to stay, None if the method knows none."""
    start: float = 0.5
    """Magnitude of latents that begin with given signs, as a share of `latent_bound` (of 1 without one)."""
    value: float = 1.0
    """The two values are ±value, if they are those of all channels."""

    @property
    def start_size(self) -> float:
        """Magnitude of latents that begin with given signs."""
        return self.start * (self.latent_bound or 1.0)

    def take_prepared(self, latent: Tensor) -> Tensor | None:
        """The weight that an optimizer prepared for this forward pass of training, if it fits; each serves one pass.

        Raises:
            TrainingError: activation checkpointing repeats one of several forward passes, which had different draws.
        """
        # a compiled model fuses its own quantizer
        usable = self.training and not torch.compiler.is_compiling()
        prepared = getattr(latent, "prepared", None) if usable else None
        if not prepared or not prepared.fits(latent, self):
            return None
        repeats = in_backward() and prepared.passes > 0
        prepared.passes += not repeats
        if prepared.passes > 1 and not (repeats and self.random):
            return None
        if prepared.passes > 1:
            raise TrainingError(
                "checkpointing repeats one of several forward passes since the last step, which had different draws"
            )
        return prepared.weight.to(autocast_dtype(latent))

    def bind(self, latent: Tensor) -> None:
        """Called once, by the layer that holds `latent` (O, …): make the parameters that depend on its shape."""

    def set_progress(self, progress: float) -> None:
        """Called before each step of training with the share of it that is done, in [0, 1): follow a schedule."""

    def decompose(self, latent: Tensor) -> BinaryWeight:
        """Signs, scale and center of what ships; for most methods sign(latent)."""
        return BinaryWeight(sign(latent.detach()))

    def binary_input(self) -> BinaryInput | None:
        """What the forward pass computes of inputs in eval mode; None if it does not make two values of them."""
        return None

    def integer_input(self) -> IntegerInput | None:
        """What the forward pass computes of inputs in eval mode; None if it does not make integers of few bits."""
        return None

    def sample(self, latent: Tensor, *, generator: torch.Generator | None = None) -> BinaryWeight | None:
        """One random draw of the weights, or None where the method defines no draw."""
        return None

    def extra_repr(self) -> str:
        """The numbers that the quantizer was made with."""
        given = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        numbers = {name: value for name, value in given.items() if isinstance(value, (int, float))}
        # 1 and 1.0 are one setting, which checkpoints compare
        return ", ".join(f"{name}={value if type(value) is bool else f'{value:g}'}" for name, value in numbers.items())


class Scheduled(Quantizer):
    """A quantizer with a number that follows the schedule, in a buffer that is not in the state_dict.

    A buffer, because each new Python number would recompile the model. It is written again wherever torch makes its
    memory anew: `to_empty`, which gives a model from "meta" its memory, leaves there what was in that memory before.

    Args:
        name: of the buffer.
        number: its first value.
    """

    def __init__(self, name: str, number: float) -> None:
        super().__init__()
        self.followed = name, number
        self.register_buffer(name, torch.tensor(number), persistent=False)

    def set_scheduled(self, number: float) -> None:
        """Give the number a new value."""
        self.followed = self.followed[0], number
        getattr(self, self.followed[0]).fill_(number)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)
        self.set_scheduled(self.followed[1])
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        name, number = self.followed
        if getattr(self, name).is_meta:  # `load_state_dict(state, assign=True)` brings all others their memory
            setattr(self, name, torch.tensor(number, device="cpu"))


def scheduled(model: torch.nn.Module) -> list[Any]:
    """The quantizers of a model that follow the progress of training: those with a `set_progress` of their own."""
    return [
        module
        for module in model.modules()
        if getattr(type(module), "set_progress", Quantizer.set_progress) is not Quantizer.set_progress
    ]


def set_progress(model: torch.nn.Module, progress: float) -> None:
    """Tell the quantizers of a model how much of its training is done; a loop of your own calls it before each step.

    Those of IR-Net, AdaBin and ReCU follow it. `fit` does this itself.

    Args:
        progress: steps done / all steps, in [0, 1].

    Raises:
        UsageError: another number.
    """
    if not 0 <= progress <= 1:
        raise UsageError(f"progress must be a number from 0 to 1, got {progress!r}")
    for quantizer in scheduled(model):
        quantizer.set_progress(progress)
