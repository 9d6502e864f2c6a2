"""Replace the binary layers of any torch model by modules that hold bits: `packed_layers_`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from onebit.common.text import table
from onebit.errors import FoldError, NotBinaryError
from onebit.fold.shipped import no_binary_layers, shipped_weights
from onebit.fold.trace import has_hooks
from onebit.fold.weight_layers import window_of
from onebit.layers import (
    PARAMETRIZED,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryEmbedding,
    BinaryLayer,
    BinaryLinear,
    binary_parametrizations,
)
from onebit.layers.base import skip_fused_path_
from onebit.layers.binary import padding_of
from onebit.layers.parametrized import kind_name, kind_of
from onebit.modules.attention import PackedAttention
from onebit.modules.layers import PackedConv, PackedEmbedding, PackedLayer, PackedLinear, WeightOf
from onebit.modules.operators import PackedWindow
from onebit.modules.recurrent import PackedCell, PackedRecurrent
from onebit.quantizers import BinaryWeight

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
    firsts: dict[tuple[int, int], nn.Module] = {}
    rows: list[PackedRow] = []
    for name, module in model.named_modules():
        parts = [part for part in module.modules() if part in shipped]
        maker = PACKED.get(kind_of(module)) if parts else None
        if maker is not None:
            _refuse_extras(name, module)
            packed: Any = maker(module, partial(_weight_of, name, module, shipped))
            made[module] = packed
            count = sum(shipped.pop(part).signs.numel() for part in parts)
            held = sum(part.nbytes for part in packed.modules() if isinstance(part, PackedLayer))
            shared = id(parts[0].weight), id(parts[0].weight_quantizer)
            first: Any = firsts.setdefault(shared, packed)
            if first is not packed:  # a head that is the embedding
                count = held = 0
                packed.signs, packed.scale, packed.center = first.signs, first.scale, first.center
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


def _weight_of(name: str, module: nn.Module, shipped: Shipped, weight: str) -> BinaryWeight:
    """A weight of a layer by torch's name."""
    path, _, own = weight.rpartition(".")
    owner = module.get_submodule(path)
    found = owner if isinstance(owner, BinaryLayer) else binary_parametrizations(owner).get(own)
    if found is None or found not in shipped:
        raise FoldError(f"layer {name!r}: the weight {weight!r} is real; make all weights of the layer binary")
    return shipped[found]


def _linear(layer: BinaryLinear, weight_of: WeightOf) -> PackedLinear:
    return PackedLinear(weight_of("weight"), layer.bias, layer.input_quantizer)


def _embedding(layer: BinaryEmbedding, weight_of: WeightOf) -> PackedEmbedding:
    return PackedEmbedding(weight_of("weight"))


def _conv(layer: Any, weight_of: WeightOf) -> PackedConv:
    window, more = PackedWindow(**window_of(layer), transposed=layer.transposed), {}
    if layer.padding_mode != "zeros":
        window = window._replace(padding=(0, 0, 0, 0))
        more = {"padding_mode": layer.padding_mode, "mode_padding": padding_of(layer)}
    axes = len(layer.kernel_size)
    return PackedConv(weight_of("weight"), layer.bias, layer.input_quantizer, window=window, axes=axes, **more)


PACKED: dict[type[nn.Module], Callable[[Any, WeightOf], nn.Module]] = {
    BinaryLinear: _linear,
    BinaryEmbedding: _embedding,
    **dict.fromkeys((BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryConvTranspose2d), _conv),
    **dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), PackedRecurrent),
    **dict.fromkeys((nn.LSTMCell, nn.GRUCell, nn.RNNCell), PackedCell),
    nn.MultiheadAttention: PackedAttention,
}
"""Class of a binary layer, or of a torch layer with binary weights -> (layer, its weights by name) -> packed module."""
