"""Replace the binary layers of any torch model by modules that hold bits: `packed_layers_`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from onebit.common.text import table
from onebit.common.torch_private import recurrent_names
from onebit.errors import FoldError, NotBinaryError
from onebit.fold.call import has_hooks
from onebit.fold.shipped import no_binary_layers, shipped_weights
from onebit.fold.weight_layers import weight_rows, window_of
from onebit.layers import (
    PARAMETRIZED,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryLayer,
    BinaryLinear,
    binary_parametrizations,
)
from onebit.layers.base import skip_fused_path_
from onebit.layers.binary import padding_of
from onebit.layers.parametrized import kind_name, kind_of
from onebit.packed.bits import pack_signs, words_to_bytes
from onebit.quantizers import BinaryWeight, Quantizer
from onebit.runtime.layer_operator import PackedWindow
from onebit.runtime.torch_attention import PackedAttention
from onebit.runtime.torch_layers import PackedConv, PackedLayer, PackedLinear
from onebit.runtime.torch_recurrent import PackedCell, PackedRecurrent

Shipped = dict[nn.Module, BinaryWeight]


class PackedRow(NamedTuple):
    """A packed layer: its number of one-bit weights, and their bytes in float32 and packed, with scales and centers."""

    name: str
    kind: str
    weights: int
    float_bytes: int
    packed_bytes: int


@dataclass(frozen=True)
class PackedLayersReport:
    """What `packed_layers_` replaced; `print` it for a table.

    Args:
        model: the model itself, which has changed in place.
        packed: a row per layer.
        real_bytes: bytes of all other parameters and buffers, biases included.
    """

    model: nn.Module = field(repr=False)
    packed: list[PackedRow]
    real_bytes: int

    def __str__(self) -> str:
        rows = [("layer", "kind", "one-bit weights", "float32 bytes", "bytes")]
        rows += [(row.name, row.kind, *(f"{n:,}" for n in row[2:])) for row in self.packed]  # type: ignore[misc]
        before, after = (sum(getattr(row, key) for row in self.packed) for key in ("float_bytes", "packed_bytes"))
        rows.append(("all", "", f"{sum(row.weights for row in self.packed):,}", f"{before:,}", f"{after:,}"))
        rest = f"1/{before / after:.1f} of float32; {self.real_bytes:,} bytes of the model stay real"
        return f"{table(rows, right=(2, 3, 4))}\n{rest}"


def packed_layers_(model: nn.Module, *, weights: str = "binary", seed: int = 0) -> PackedLayersReport:
    """Replace the binary layers of any torch model by modules that hold one bit per weight, in place.

    The rest of the model stays torch: use this where `onebit.pack` cannot pack the whole graph. Inputs of packed layers
    may be any real values. They are rounded to a 24-bit grid per sample, on which products are exact; an input
    thousands of times smaller than the largest one loses digits. The state_dict of a packed layer has `signs` (uint8, a
    row of bits per output), `scale`, `center` and `bias`; it loads into any packed model of the same architecture. For
    inference on the CPU; inputs have the gradient of the dense layer.

    Args:
        model: with layers of `onebit.layers`, or made binary by `onebit.binarize_`; float32, on the CPU.
        weights: "binary" for the result of `decompose`, "sample" for one random draw.
        seed: of the draw.

    Returns:
        What was replaced.

    Raises:
        UsageError: an unknown test mode, or a quantizer that defines no random draw.
        NotBinaryError: no binary layer inside, or parameters that are not finite; names the layer.
        FoldError: a layer that cannot be replaced; names it. The model is unchanged.

    Example:
        >>> net = nn.Sequential(onebit.BinaryLinear(256, 256), nn.ReLU(), onebit.BinaryLinear(256, 64))
        >>> print(packed_layers_(net))
        layer  kind          one-bit weights  float32 bytes   bytes
        0      BinaryLinear           65,536        262,144   8,192
        2      BinaryLinear           16,384         65,536   2,048
        all                           81,920        327,680  10,240
        1/32.0 of float32; 0 bytes of the model stay real
    """
    shipped = shipped_weights(model, weights, seed)
    if not shipped or isinstance(model, BinaryLayer) or kind_of(model) in PARAMETRIZED:
        raise NotBinaryError(f"{no_binary_layers(model)}; a lone layer needs a model around it: nn.Sequential(layer)")
    skip_fused_path_(model)
    made: dict[nn.Module, nn.Module] = {}
    rows: list[PackedRow] = []
    for name, module in model.named_modules():
        parts = [part for part in module.modules() if part in shipped]
        maker = PACKED.get(kind_of(module)) if parts else None
        if maker is not None:
            _refuse_extras(name, module)
            made[module] = packed = maker(name, module, shipped)
            count = sum(shipped.pop(part).signs.numel() for part in parts)
            held = sum(part.nbytes for part in packed.modules() if isinstance(part, PackedLayer))
            rows.append(PackedRow(name, kind_name(module), count, 4 * count, held))
        elif module in shipped:
            known = ", ".join(kind.__name__ for kind in PACKED)
            raise FoldError(f"layer {name!r}: {kind_name(module)} cannot hold bits, expected one of {known}")
    for parent in list(model.modules()):
        if parent not in made:
            for name, child in list(parent._modules.items()):
                if child in made:
                    setattr(parent, name, made[child].train(child.training))
    kept = (*model.parameters(), *model.buffers())
    held = sum(row.packed_bytes for row in rows)
    return PackedLayersReport(model, rows, sum(one.numel() * one.element_size() for one in kept) - held)


def _refuse_extras(name: str, module: nn.Module) -> None:
    """Raise FoldError for hooks and further parametrizations, which the packed layer would not run."""
    for part in module.modules():
        others = any(len(part.parametrizations[w]) > 1 for w in binary_parametrizations(part))  # type: ignore[index]
        if others or has_hooks(part):
            raise FoldError(f"layer {name!r} has hooks or a second parametrization, which a packed layer does not run")


def _arguments(weight: BinaryWeight, bias: Tensor | None, quantizer: nn.Module | None = None) -> dict[str, Any]:
    """The arguments of a `PackedLayer`."""
    if weight.grouped and weight.centre is not None:
        raise FoldError("a layer with scales per group of inputs has no centers")
    signs = weight_rows(weight.signs)
    arguments = {"rows": words_to_bytes(pack_signs(signs), signs.shape[1]), "terms": signs.shape[1]}
    bias = None if bias is None else bias.detach().float()
    arguments |= {"scale": weight.scale, "center": weight.centre, "bias": bias}
    if quantizer is not None:
        given = quantizer.binary_input() if isinstance(quantizer, Quantizer) else None
        signs_only = given is not None and given.scale is None and given.centre is None
        plain = signs_only and given.shift is None  # type: ignore[union-attr]
        arguments |= {"input_quantizer": quantizer, "sign_inputs": signs_only, "plain": plain}
    return arguments


def _linear(name: str, layer: BinaryLinear, shipped: Shipped) -> PackedLinear:
    return PackedLinear(**_arguments(shipped[layer], layer.bias, layer.input_quantizer))


def _conv(name: str, layer: Any, shipped: Shipped) -> PackedConv:
    arguments = _arguments(shipped[layer], layer.bias, layer.input_quantizer)
    window = PackedWindow(**window_of(layer), transposed=layer.transposed)
    if layer.padding_mode != "zeros":
        window = window._replace(padding=(0, 0, 0, 0))
        arguments |= {"padding_mode": layer.padding_mode, "mode_padding": padding_of(layer)}
    return PackedConv(window=window, axes=len(layer.kernel_size), **arguments)


# layers of torch whose weights are parametrized


def _part(name: str, layer: nn.Module, weight: str, bias: Tensor | None, shipped: Shipped) -> PackedLinear:
    """A weight of `layer` as a packed dense layer."""
    found = binary_parametrizations(layer).get(weight)
    if found is None or found not in shipped:
        raise FoldError(f"layer {name!r}: the weight {weight!r} is real; make all weights of the layer binary")
    return PackedLinear(**_arguments(shipped[found], bias))


def _recurrent(name: str, layer: Any, shipped: Shipped) -> PackedRecurrent:
    weights = {
        weight: _part(name, layer, weight, getattr(layer, weight.replace("weight", "bias"), None), shipped)
        for weight in recurrent_names(layer)
        if weight.startswith("weight")
    }
    return PackedRecurrent(layer, weights)


def _cell(name: str, layer: Any, shipped: Shipped) -> PackedCell:
    mode = kind_name(layer).removesuffix("Cell")
    if mode == "RNN":
        mode = f"RNN_{layer.nonlinearity.upper()}"
    parts = (_part(name, layer, f"weight_{one}", getattr(layer, f"bias_{one}"), shipped) for one in ("ih", "hh"))
    return PackedCell(mode, *parts)


def _attention(name: str, layer: Any, shipped: Shipped) -> PackedAttention:
    out = _part(f"{name}.out_proj", layer.out_proj, "weight", layer.out_proj.bias, shipped)
    inputs: Any
    if layer._qkv_same_embed_dim:
        inputs = _part(name, layer, "in_proj_weight", layer.in_proj_bias, shipped)
    else:
        biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
        inputs = tuple(
            _part(name, layer, f"{one}_proj_weight", bias, shipped) for one, bias in zip("qkv", biases, strict=True)
        )
    return PackedAttention(inputs, out, layer)


PACKED: dict[type[nn.Module], Callable[[str, Any, Shipped], nn.Module]] = {
    BinaryLinear: _linear,
    **dict.fromkeys((BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryConvTranspose2d), _conv),
    **dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), _recurrent),
    **dict.fromkeys((nn.LSTMCell, nn.GRUCell, nn.RNNCell), _cell),
    nn.MultiheadAttention: _attention,
}
"""Class of a binary layer, or of a torch layer with binary weights -> function that makes its packed module."""
