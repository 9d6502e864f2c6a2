"""Trained model -> packed net: trace, fold BatchNorm, sign and scales, one bit per weight.

The model runs once on an example under `torch.fx`, layers stay whole (`trace`), and each operation of the traced graph
has one function in the table `FOLDS` (`operations`; those with weights in `products`, those on images in `images`).
Per-channel operations are held back until something needs their value: a sign turns those that stand on integers into
an integer threshold (`chain`, `reach`), anything else turns them into one affine map (`folder`). So are pools between
BatchNorm and a sign, because the sign of a largest value is the largest sign.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from onebit.errors import FoldError, NotBinaryError, UsageError, first_line
from onebit.fold.folder import Folded, Folder, SignSite, check_finite
from onebit.fold.operations import FOLDS
from onebit.fold.trace import trace
from onebit.layers import binary_layers, check_model
from onebit.packed import PackedNet
from onebit.quantizers import BinaryWeight

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
    """The packed net that computes what `model` computes in eval mode with the weights that ship.

    Args:
        model: takes uint8 images (N, C, H, W), returns logits (N, classes); float32. It is not changed.
        input_shape: (C, H, W); may be left out when the model has the attribute `input_shape`.
        weights: "binary" for what `decompose` gives, "sample" for one random draw.
        seed: of the draw, which is the one that `onebit.evaluate` makes of it on the CPU.
        classes: a name per logit.
        name: of the recipe or model, for people.

    Raises:
        UsageError: no input shape, an unknown test mode, or a quantizer that defines no random draw.
        NotBinaryError: no binary layer, or parameters that are not finite; names the layer.
        FoldError: an operation that cannot be packed; names it and the way out.

    Example:
        >>> net = nn.Sequential(onebit.InputCoding(), nn.Flatten(), onebit.BinaryLinear(4, 2))
        >>> [type(node).__name__ for node in pack(net, input_shape=(1, 2, 2)).nodes]
        ['Flatten', 'Dense']
    """
    net = fold_model(model, input_shape=input_shape, weights=weights, seed=seed).net
    return replace(net, classes=None if classes is None else tuple(classes), name=name)


def fold_model(
    model: nn.Module, *, input_shape: tuple[int, int, int] | None = None, weights: str = "binary", seed: int = 0
) -> Folded:
    """The packed net of a model, and where its signs come from. Arguments and errors as `pack`."""
    model = eval_copy(model)
    shape = getattr(model, "input_shape", None) if input_shape is None else input_shape
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise UsageError(f"got input_shape {shape!r}, expected (C, H, W) of an image, as in input_shape=(1, 28, 28)")
    channels, height, width = shape
    if not any(True for _ in binary_layers(model)):
        raise NotBinaryError("the model has no binary layer; make its layers binary with onebit.binarize_ and train it")
    folder = Folder(model, (channels, height, width), _shipped(model, weights, seed), FOLDS)
    graph = trace(model, torch.zeros((2, channels, height, width), dtype=torch.uint8), is_leaf=folder.is_leaf)
    return folder.fold(graph)


def eval_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode; of a compiled model, of what was compiled.

    Raises:
        WrongTypeError: not a module. FoldError: the model cannot be copied.
    """
    check_model(model)
    try:
        return copy.deepcopy(getattr(model, "_orig_mod", model)).cpu().eval()
    except Exception as error:
        raise FoldError(
            f"cannot copy the {type(model).__name__}: {first_line(error)}; keep no results of forward in it"
        ) from error


def _shipped(model: nn.Module, weights: str, seed: int) -> dict[nn.Module, BinaryWeight]:
    """The weights of one test mode, by layer."""
    if weights not in ("binary", "sample"):
        raise UsageError(f"got weights {weights!r}, expected 'binary' or 'sample'")
    generator = torch.Generator().manual_seed(seed)
    shipped: dict[nn.Module, BinaryWeight] = {}
    for name, layer in binary_layers(model):
        check_finite(name, "latent weights", layer.weight)
        weight = layer.binary_weight() if weights == "binary" else layer.sample_weight(generator=generator)
        if weight is None:
            kind = type(layer.weight_quantizer).__name__
            raise UsageError(f"layer {name!r}: {kind} defines no random draw; use weights='binary'")
        shipped[layer] = weight
    return shipped
