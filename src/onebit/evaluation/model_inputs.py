"""The device of a model, the modes of its modules, and passes that only try it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.torch_private import uncompiled
from onebit.errors import UsageError
from onebit.evaluation.loaders import kept_globals
from onebit.evaluation.nested import first_samples, mapped
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
def whole_pixels(model: nn.Module) -> Iterator[None]:
    """Refuse numbers up to 1 where an `InputCoding` takes pixels 0–255, as if they were nearly black."""

    def check(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0]
        if x.is_floating_point() and x.numel() and 0 < (largest := float(x.max())) <= 1:
            raise UsageError(f"InputCoding takes pixels 0–255, got numbers up to {largest:.3g}: multiply them by 255")

    hooks = [coding.register_forward_pre_hook(check) for coding in model.modules() if isinstance(coding, InputCoding)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def try_model(model: nn.Module, inputs: Any) -> None:
    """Run the first two samples in eval mode, which raises what the model raises; no random state changes."""
    plain, device = uncompiled(model), model_device(model)  # two samples need no compilation
    with torch.random.fork_rng(devices=[]), kept_globals(), kept_training(plain), whole_pixels(plain):
        plain.eval()(mapped(lambda tensor: tensor.to(device), first_samples(inputs, 2)))
