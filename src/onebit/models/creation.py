"""Models by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from onebit.common.memory import total_memory
from onebit.common.tables import did_you_mean, resolve
from onebit.errors import UsageError
from onebit.models.model_table import MODELS
from onebit.models.parts import Parts
from onebit.models.resnet import ResNet
from onebit.models.stack import Stack
from onebit.models.unet import UNet


def create_model(name: str | Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Build a model by name.

    Args:
        name: a name of `MODELS`, or what builds the model.
        options: the model's own arguments.

    Raises:
        UnknownNameError: no such model.
        UsageError: an option that the model does not take, or a value it refuses, such as images too small for it; or
            more weights than fit into memory.

    Example:
        >>> create_model("mlp", widths=(784, 512, 10), weight_quantizer="sign")  # doctest: +ELLIPSIS
        MLP(...)
    """
    kind = resolve(MODELS, name, kind="model")
    try:
        if isinstance(name, str):
            _refuse_too_large(name, kind, options)
        return kind(**options)
    except (TypeError, ValueError) as error:
        unknown = re.search(r"(?:unexpected|multiple values for) keyword argument '(\w+)'", str(error))
        known, reason = option_names(kind), f": {error}"
        if unknown is not None and unknown[1] not in known:
            reason = f" takes no option {unknown[1]!r}{did_you_mean(unknown[1], known)}"
        raise UsageError(f"model {name!r}{reason}") from error


def _refuse_too_large(name: str, kind: Callable[..., nn.Module], options: dict[str, Any]) -> None:
    """Raises UsageError, before memory is taken: the weights do not fit into the memory of this machine."""
    with torch.device("meta"):  # shapes without values
        count = sum(parameter.numel() for parameter in kind(**options).parameters())
    if 4 * count > (memory := total_memory()):
        raise UsageError(
            f"model {name!r} has {count:,} parameters, {4 * count / 1e9:,.0f} GB, and this machine has "
            f"{memory / 1e9:,.0f} GB of memory; choose a smaller net"
        )


def option_names(kind: Callable[..., nn.Module]) -> list[str]:
    """What a model takes by name: its own options, and those that it passes on to what builds it."""
    own = inspect.signature(kind)
    chain = [own]
    if any(option.kind is option.VAR_KEYWORD for option in own.parameters.values()) and kind in MODELS.values():
        if kind is not UNet:
            chain.append(inspect.signature(ResNet if own.return_annotation == "ResNet" else Stack))
        chain.append(inspect.signature(Parts))
    # what the builder needs without a default is chosen by the model
    found = [option for part in chain for option in part.parameters.values() if option.default is not option.empty]
    return sorted({option.name for option in found} - {"around_each", "bottleneck"})  # `bireal` and the depth set them
