"""Make the layers of any torch model binary, in place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from onebit.errors import UsageError
from onebit.layers.base import BinaryLayer, InputQuantizer, WeightQuantizer, check_model
from onebit.layers.binary import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear


def binarize_(
    model: nn.Module,
    *,
    weight_quantizer: WeightQuantizer = "ste_sign",
    input_quantizer: InputQuantizer = None,
    where: Callable[[str, nn.Module], bool] | None = None,
    value: float | str = 1.0,
) -> nn.Module:
    """Make the dense and convolutional layers of any torch model binary, in place; weights, names and keys stay.

    The first of them keeps real inputs, whatever `input_quantizer` is: pixels are not ±1.

    Args:
        model: any module; `torch.nn.Linear`, `Conv2d` and `ConvTranspose2d` (not subclasses) are replaced.
        weight_quantizer, input_quantizer: name or object; each layer gets a copy, which shares the random generator.
        where: `where(name, module)` chooses layers; all by default.
        value: the two values are ±value.

    Returns:
        `model` itself.

    Raises:
        UsageError: nothing to binarize, `model` itself is such a layer, or a layer is reparametrized.
        WrongTypeError: `model` is not a module.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = binarize_(net, weight_quantizer="sign", where=lambda name, layer: name != "2")
    """
    check_model(model)
    if type(model) in BINARY_TWINS:
        raise UsageError("binarize_ replaces layers inside a model; wrap a lone layer: nn.Sequential(layer)")
    found: dict[int, BinaryLayer] = {}
    for parent_name, parent in list(model.named_modules()):
        for child_name, child in list(parent.named_children()):
            name = f"{parent_name}.{child_name}" if parent_name else child_name
            if type(child) not in BINARY_TWINS or (where is not None and not where(name, child)):
                continue
            if not isinstance(child.weight, nn.Parameter):
                reason = "its weight is computed from other parameters (pruning, weight_norm); undo that first"
                raise UsageError(f"layer {name!r}: {reason}")
            if id(child) not in found:  # a layer that is used twice stays one layer
                inputs = _copied(input_quantizer) if found else None
                found[id(child)] = _binary_twin(child, _copied(weight_quantizer), inputs, value)
            setattr(parent, child_name, found[id(child)])
            if isinstance(parent, nn.TransformerEncoderLayer):
                # the fused path in eval mode reads the weights of its layers directly and skips the quantizers
                parent.activation_relu_or_gelu = 0
    if not found:
        raise UsageError(
            "nothing to binarize: no torch.nn.Linear, Conv2d or ConvTranspose2d layer was found or chosen by `where`"
        )
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only the fused path takes nested tensors
    return model


def _copied(quantizer: Any) -> Any:
    """A copy that shares the random generator: copies of the generator would draw the same bits in every layer."""
    generator = getattr(quantizer, "generator", None)
    return copy.deepcopy(quantizer, {id(generator): generator})


def _twin(kind: type[BinaryLayer], arguments: str, layer: Any, **quantizers: Any) -> BinaryLayer:
    """A layer of class `kind` with these arguments of `layer`."""
    same = {name: getattr(layer, name) for name in arguments.split()}
    return kind(**same, bias=layer.bias is not None, **quantizers)


_CONV = "in_channels out_channels kernel_size stride padding dilation groups"
BINARY_TWINS: dict[type[nn.Module], Callable[..., BinaryLayer]] = {
    nn.Linear: partial(_twin, BinaryLinear, "in_features out_features"),
    nn.Conv2d: partial(_twin, BinaryConv2d, f"{_CONV} padding_mode"),
    nn.ConvTranspose2d: partial(_twin, BinaryConvTranspose2d, f"{_CONV} output_padding"),
}
"""Layer class -> a function that builds its binary twin, which gets the same weight and bias."""


def _binary_twin(layer: nn.Module, weight: WeightQuantizer, inputs: InputQuantizer, value: float | str) -> BinaryLayer:
    # on "meta": takes no memory and no random numbers; the parameters of `layer` replace its own
    twin = BINARY_TWINS[type(layer)](layer, weight_quantizer=None, device="meta")
    twin.weight, twin.bias = layer.weight, layer.bias  # type: ignore[assignment]
    twin._add_quantizers(weight, inputs, value)
    return twin.train(layer.training)
