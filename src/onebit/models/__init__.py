"""Models: each takes uint8 images (N, C, H, W) and returns logits (N, classes); binary or real by its quantizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from onebit.errors import UsageError
from onebit.models.mlp import MLP
from onebit.tables import resolve

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
}


def create_model(name: str | Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Build a model by name.

    Args:
        name: a name of `MODELS`, or the class itself.
        options: the model's own arguments.

    Raises:
        UnknownNameError: no such model.
        UsageError: an option that the model does not take, or a value it refuses.

    Example:
        >>> create_model("mlp", widths=(784, 512, 10), weight_quantizer="sign")  # doctest: +ELLIPSIS
        MLP(...)
    """
    kind = resolve(MODELS, name, kind="model")
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"model {name!r}: {error}") from error


__all__ = ["MLP", "MODELS", "create_model"]
