"""Which images a model takes, on which device, and in which mode its modules are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from onebit.common.arguments import described
from onebit.common.torch_private import uncompiled
from onebit.errors import UsageError, first_line
from onebit.layers import InputCoding


def model_device(model: nn.Module) -> torch.device:
    """The device of the first parameter; the CPU for a net without parameters."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def kept_training(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module, training or eval, at the end of the context."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def whole_pixels(model: nn.Module, *, name: str = "") -> Iterator[None]:
    """Refuse numbers up to 1 where an `InputCoding` takes pixels 0–255, as if they were nearly black."""

    def check(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0]
        if x.is_floating_point() and x.numel() and 0 < (largest := float(x.max())) <= 1:
            raise UsageError(
                f"the InputCoding of the model takes pixels 0–255, {name or 'the inputs'}: got numbers up to "
                f"{largest:.3g}; multiply them by 255, or leave them uint8"
            )

    hooks = [coding.register_forward_pre_hook(check) for coding in model.modules() if isinstance(coding, InputCoding)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_takes(model: nn.Module, shape: Sequence[int], *, classes: int | None = None, data: str = "") -> None:
    """Refuse images that a model does not take, and labels without a logit, by a forward pass of two blank images.

    Args:
        shape: of an image, (C, H, W); data: the name of the data set.
        classes: number of logits per image; None skips this check.
    """
    check_own_shape(model, shape)
    model = uncompiled(model)  # the input of torch.compile: two images need no compilation
    images = torch.zeros(2, *shape, dtype=torch.uint8, device=model_device(model))
    name = f" of {data}" if data else ""
    try:
        with torch.random.fork_rng(devices=[]), kept_training(model):
            logits = model.eval()(images)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"the model does not take the uint8 images {'×'.join(map(str, shape))}{name} ({first_line(error)}): "
            "begin it with onebit.InputCoding()"
        ) from None
    if classes is None:
        return
    if not isinstance(logits, Tensor) or logits.dim() < 2 or logits.shape[1] < classes:
        got = f"logits {tuple(logits.shape)}" if isinstance(logits, Tensor) else described(logits)
        raise UsageError(f"the model returns {got} for two images, expected (2, {classes}) for the classes{name}")


def check_own_shape(model: nn.Module, shape: Sequence[int]) -> None:
    """Refuse images whose shape is not the model's `input_shape`; the UsageError names both."""
    expected = tuple(getattr(model, "input_shape", shape))
    if expected != tuple(shape):
        raise UsageError(f"the model takes images of shape {expected}, the data has {tuple(shape)}")


@contextmanager
def explained(model: nn.Module, shape: Sequence[int], *, classes: int | None = None, data: str = "") -> Iterator[None]:
    """Replace an error of torch by that of `check_takes`, with the same arguments, if the model refuses the images."""
    try:
        yield
    except (RuntimeError, IndexError, TypeError, ValueError):
        if not hasattr(model, "output_shape"):  # a U-Net takes tiles of any image
            check_takes(model, shape, classes=classes, data=data)
        raise
