"""Models by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from onebit.common.memory import total_memory
from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.models.settings import MODELS


def create_model(name: str | Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Build a model by name.

    Args:
        name: a name of `MODELS`, or a function that builds the model.
        options: arguments of the model.

    Raises:
        UnknownNameError: no such model.
        UsageError: an invalid value, or more weights than fit into memory.

    Example:
        >>> create_model("mlp", widths=(784, 512, 10), weight_quantizer="sign")  # doctest: +ELLIPSIS
        MLP(...)
    """
    kind = resolve(MODELS, name, kind="model")
    if isinstance(name, str):
        with torch.device("meta"):  # shapes without values
            size = 4 * sum(parameter.numel() for parameter in kind(**options).parameters())
        if size > (memory := total_memory()):
            raise UsageError(f"model {name!r} needs {size / 1e9:,.0f} GB of memory, got {memory / 1e9:,.0f} GB")
    return kind(**options)
