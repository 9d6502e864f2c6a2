"""Trained model -> packed net: trace, fold BatchNorm, sign and scales, one bit per weight.

The model runs once on an example under `torch.fx`, with known layers kept whole (`trace`). Each operation of the traced
graph has one function in the table `FOLDS` (`operations`, `weight_layers`, `image_layers`). Per-channel operations are
deferred until their value is needed (`folder`): a sign turns those on integers into an integer threshold (`chain`,
`value_range`), anything else into one affine map. Pools between BatchNorm and a sign are deferred too, because the sign
of the largest value is the largest sign.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from onebit.errors import FoldError, NotBinaryError, UsageError, first_line
from onebit.fold.folder import Folded, Folder, SignSite
from onebit.fold.operations import FOLDS
from onebit.fold.shipped import shipped_weights
from onebit.fold.trace import trace
from onebit.layers import binary_layers, check_model
from onebit.packed import PackedNet

__all__ = ["FOLDS", "Folded", "SignSite", "eval_copy", "fold_model", "pack"]


def pack(
    model: nn.Module,
    *,
    input_shape: tuple[int, int, int] | None = None,
    weights: str = "binary",
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str = "",
) -> PackedNet:
    """The packed net that computes what `model` computes in eval mode with its binary weights.

    Args:
        model: float32, maps uint8 images (N, C, H, W) to logits (N, classes). It is not changed.
        input_shape: (C, H, W); optional if the model has the attribute `input_shape`.
        weights: "binary" for the result of `decompose`, "sample" for one random draw.
        seed: of the draw; `onebit.evaluate` on the CPU makes the same draw from it.
        classes: one name per logit.
        name: name of the recipe or model, for display.

    Raises:
        UsageError: no input shape, an unknown test mode, or a quantizer that defines no random draw.
        NotBinaryError: no binary layer, or parameters that are not finite; names the layer.
        FoldError: an operation that cannot be packed; names it and a way out.

    Example:
        >>> net = nn.Sequential(onebit.InputCoding(), nn.Flatten(), onebit.BinaryLinear(4, 2))
        >>> [type(node).__name__ for node in pack(net, input_shape=(1, 2, 2)).nodes]
        ['Flatten', 'Dense']
    """
    net = fold_model(model, input_shape=input_shape, weights=weights, seed=seed).net
    return replace(net, classes=None if classes is None else tuple(classes), name=name)


def fold_model(
    model: nn.Module, *, input_shape: tuple[int, ...] | None = None, weights: str = "binary", seed: int = 0
) -> Folded:
    """The packed net of a model, and where it takes signs. Arguments and errors: see `pack`."""
    model = eval_copy(model)
    shape = getattr(model, "input_shape", None) if input_shape is None else input_shape
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise UsageError(f"got input_shape {shape!r}, expected (C, H, W) of an image, as in input_shape=(1, 28, 28)")
    channels, height, width = shape
    if not any(True for _ in binary_layers(model)):
        raise NotBinaryError("the model has no binary layer; make its layers binary with onebit.binarize_ and train it")
    folder = Folder(model, (channels, height, width), shipped_weights(model, weights, seed), FOLDS)
    graph = trace(model, torch.zeros((2, channels, height, width), dtype=torch.uint8), is_leaf=folder.is_leaf)
    return folder.fold(graph)


def eval_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode; for a compiled model, of the original. FoldError if it cannot be copied."""
    check_model(model)
    try:
        return copy.deepcopy(getattr(model, "_orig_mod", model)).cpu().eval()
    except Exception as error:
        raise FoldError(
            f"cannot copy the {type(model).__name__}: {first_line(error)}; do not keep results of forward in it"
        ) from error
