"""Layers with binary weights: the Parameter is the latent weight, forward derives the binary one.

A binary layer *is* its `torch.nn` twin with two quantizers added, so state_dict keys, shapes and hooks are those of the
twin and a checkpoint moves between the two.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, BinaryWeight, Quantizer
from onebit.tables import did_you_mean, resolve

WeightQuantizer = str | Quantizer | type[Quantizer] | None
InputQuantizer = str | nn.Module | type[nn.Module] | None


def glorot_bound(weight: Tensor) -> float:
    """sqrt(1.5/(fan_in + fan_out)), the coefficient of the reference BinaryConnect code.

    Args:
        weight: (O, I, …); a convolution's fans are kernel area × channels.
    """
    area = math.prod(weight.shape[2:])
    return math.sqrt(1.5 / (area * (weight.shape[0] + weight.shape[1])))


def make_weight_quantizer(quantizer: WeightQuantizer, weight: Tensor, *, value: float | str = 1.0) -> Quantizer | None:
    """The quantizer of one layer from a name, a class, or an object (taken as it is).

    Args:
        quantizer: name in WEIGHT_QUANTIZERS, object, or None for real weights.
        weight: the latent, whose fans give `value="glorot"`.
        value: the two values are ±value; "glorot" is `glorot_bound(weight)`.

    Raises:
        UnknownNameError: no such quantizer.
        UsageError: the quantizer has no `value`, or `value` is not a positive number.
    """
    if isinstance(value, str):
        if value != "glorot":
            raise UsageError(f"value must be a positive number or 'glorot', got {value!r}")
        value = glorot_bound(weight)
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"value must be a positive number or 'glorot', got {value!r}")
    if quantizer is None:
        return None
    kind = resolve(WEIGHT_QUANTIZERS, quantizer, kind="weight quantizer")
    if not isinstance(kind, type):
        if value != 1.0:
            raise UsageError(f"value={value:g} goes with the name of a quantizer; {kind!r} has its own")
        return kind
    if value == 1.0:
        return kind()
    try:
        return kind(value=value)
    except TypeError as error:
        raise UsageError(f"weight quantizer {kind.__name__} is ±1 only: leave value at 1, got {value!r}") from error


def make_input_quantizer(quantizer: InputQuantizer) -> nn.Module | None:
    """The input quantizer of one layer from a name or an object; None leaves inputs real."""
    found = resolve(INPUT_QUANTIZERS, quantizer, kind="input quantizer")
    return found() if isinstance(found, type) else found


class BinaryLayer(nn.Module):
    """What binary layers share. Mixed into a `torch.nn` layer that has a `weight` of shape (O, …)."""

    weight: Tensor
    weight_quantizer: Quantizer | None
    input_quantizer: nn.Module | None
    fixed_weight: Tensor | None

    def _add_quantizers(self, weight: WeightQuantizer, inputs: InputQuantizer, value: float | str) -> None:
        self.weight_quantizer = make_weight_quantizer(weight, self.weight, value=value)
        self.input_quantizer = make_input_quantizer(inputs)
        # the weight of a stated test mode (onebit.evaluation), never part of the state_dict
        self.fixed_weight = None

    def binary_weight(self) -> BinaryWeight:
        """What ships of this layer: (signs, scale, centre) with weight = scale·signs + centre.

        Raises:
            UsageError: the layer has real weights.
        """
        if self.weight_quantizer is None:
            raise UsageError("this layer has real weights (weight_quantizer=None): it has no binary weight")
        return self.weight_quantizer.decompose(self.weight)

    def effective_weight(self) -> Tensor:
        """The weight that this forward pass multiplies with, shape of the latent."""
        if self.fixed_weight is not None:
            return self.fixed_weight
        return self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input after the input quantizer, if there is one."""
        return x if self.input_quantizer is None else self.input_quantizer(x)


class BinaryLinear(BinaryLayer, nn.Linear):
    """Dense layer y = q_in(x) · q_w(W)ᵀ + b with latent weight W.

    Args:
        in_features, out_features: as in `torch.nn.Linear`.
        bias: off by default: BatchNorm usually follows.
        weight_quantizer: name or object; None keeps real weights.
        input_quantizer: name or object; None keeps real inputs.
        value: the two values are ±value; "glorot" for sqrt(1.5/(fan_in + fan_out)).

    Shapes:
        x: (N, I) -> (N, O); weight (O, I).

    Example:
        >>> BinaryLinear(784, 512, weight_quantizer="sign")(torch.zeros(2, 784)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        weight_quantizer: WeightQuantizer = "sign",
        input_quantizer: InputQuantizer = None,
        value: float | str = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._add_quantizers(weight_quantizer, input_quantizer, value)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.quantized_input(x), self.effective_weight(), self.bias)


def linear(
    in_features: int,
    out_features: int,
    *,
    weight_quantizer: WeightQuantizer,
    input_quantizer: InputQuantizer,
    value: float | str = 1.0,
) -> nn.Linear:
    """A `BinaryLinear` without bias, or a plain `torch.nn.Linear` when nothing is quantized."""
    if weight_quantizer is None and input_quantizer is None:
        return nn.Linear(in_features, out_features, bias=False)
    return BinaryLinear(
        in_features, out_features, weight_quantizer=weight_quantizer, input_quantizer=input_quantizer, value=value
    )


class InputCoding(nn.Module):
    """First module of a model: uint8 pixels -> float32, so that the coding travels with the net.

    Args:
        coding: "integer" is 2x − 255, odd integers that stay exact up to the first threshold (BatchNorm absorbs the
            scale); "standardise" is (x − mean)/std.
        mean, std: per channel in pixel units 0–255; for "standardise" only.

    Shapes:
        x: uint8 (N, C, H, W) -> float32 (N, C, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, coding: str = "integer", *, mean: list[float] | None = None, std: list[float] | None = None
    ) -> None:
        super().__init__()
        if coding not in ("integer", "standardise"):
            raise UsageError(f"unknown input coding {coding!r}{did_you_mean(coding, ['integer', 'standardise'])}")
        self.coding: Literal["integer", "standardise"] = cast(Any, coding)
        if coding == "standardise":
            if mean is None or std is None or len(mean) != len(std) or min(std) <= 0:
                raise UsageError(f"coding 'standardise' needs mean and positive std per channel, got {mean} and {std}")
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.coding == "integer":
            return x.to(torch.float32, copy=True).mul_(2).sub_(255)
        return (x.float() - self.mean) / self.std

    def extra_repr(self) -> str:
        return repr(self.coding)


def binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer]]:
    """(name, layer) of every layer with binary weights, in the order of `named_modules`."""
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer) and module.weight_quantizer is not None:
            yield name, module


def binarize_(
    model: nn.Module,
    *,
    weight_quantizer: WeightQuantizer = "ste_sign",
    input_quantizer: InputQuantizer = None,
    where: Callable[[str, nn.Module], bool] | None = None,
    value: float | str = 1.0,
) -> nn.Module:
    """Turn Linear layers of any torch model binary, in place; weights, names and state_dict keys stay.

    The first binarized layer keeps real inputs whatever `input_quantizer` says: pixels are not ±1.

    Args:
        model: any module; `torch.nn.Linear` (not subclasses) are replaced.
        weight_quantizer, input_quantizer: name or object; an object is copied for each layer, all but its generator.
        where: `where(name, module)` says which layers; all by default.
        value: the two values are ±value.

    Returns:
        `model` itself.

    Raises:
        UsageError: nothing to binarize, `model` itself is the Linear layer, or a layer is re-parametrised.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = binarize_(net, weight_quantizer="sign", where=lambda name, layer: name != "2")
    """
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
            if id(child) not in found:  # a layer that stands in two places stays one layer
                found[id(child)] = BINARY_TWINS[type(child)](
                    child,
                    _copied(weight_quantizer),
                    _copied(input_quantizer) if found else None,
                    value,
                )
            setattr(parent, child_name, found[id(child)])
            if isinstance(parent, nn.TransformerEncoderLayer):
                # its fused path of eval mode reads the weights of its layers itself, past the quantizers
                parent.activation_relu_or_gelu = 0
    if not found:
        raise UsageError("nothing to binarize: no torch.nn.Linear layer was found or chosen by `where`")
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only that fused path takes nested tensors
    return model


def _copied(quantizer: Any) -> Any:
    """A copy for one layer that shares the generator: copies of it would draw the same bytes in every layer."""
    generator = getattr(quantizer, "generator", None)
    return copy.deepcopy(quantizer, {id(generator): generator})


def _binary_linear(
    layer: nn.Linear, weight: WeightQuantizer, inputs: InputQuantizer, value: float | str
) -> BinaryLinear:
    twin = BinaryLinear(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        weight_quantizer=None,
        device="meta",  # no memory and no random numbers: the parameters are taken over below
    )
    twin.weight, twin.bias = layer.weight, layer.bias
    twin._add_quantizers(weight, inputs, value)
    return twin.train(layer.training)


BINARY_TWINS: dict[type[nn.Module], Callable[..., BinaryLayer]] = {nn.Linear: _binary_linear}
