"""Dense layers and convolutions, with one-bit or real weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from onebit.errors import NotBinaryError
from onebit.fold.chain import FoldedOp, Pending, sums_are_exact
from onebit.fold.folder import Call, Folder, check_finite
from onebit.packed import Conv, ConvTranspose, Dense, Node, RealConv, RealConvTranspose, RealDense
from onebit.packed.bits import pack_signs
from onebit.quantizers import BinaryWeight


def linear(folder: Folder, call: Call, x: Pending) -> Pending:
    return _matmul(folder, call, x, Dense, RealDense, call.module.weight)


def conv(folder: Folder, call: Call, x: Pending) -> Pending:
    layer: nn.Conv2d = call.module
    if layer.padding_mode != "zeros":
        raise call.refusal(f"got padding_mode {layer.padding_mode!r}, expected 'zeros'")
    # torch's own field, because padding "same" is asymmetric for even kernels
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    fields = {**_geometry(layer), "padding": (top, bottom, left, right)}
    fields["padding_value"] = int(getattr(layer, "padding_value", 0))
    return _matmul(folder, call, x, Conv, RealConv, layer.weight, **fields)


def conv_transpose(folder: Folder, call: Call, x: Pending) -> Pending:
    layer: nn.ConvTranspose2d = call.module
    before, after = call.shapes
    fields = {**_geometry(layer), "padding": tuple(n for size in layer.padding for n in (size, size))}
    fields["extra"] = tuple(  # by its effect, as forward may have been called with an output size
        after[axis + 2]
        - ((before[axis + 2] - 1) * layer.stride[axis] + layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1)
        + 2 * int(layer.padding[axis])
        for axis in (0, 1)
    )
    weight = layer.weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)  # outputs first
    return _matmul(folder, call, x, ConvTranspose, RealConvTranspose, weight, **fields)


def _geometry(layer: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    pairs = {"kernel": layer.kernel_size, "stride": layer.stride, "dilation": layer.dilation}
    return {"groups": layer.groups, **{name: tuple(pair) for name, pair in pairs.items()}}


def _matmul(
    folder: Folder, call: Call, x: Pending, one_bit: type[Node], real: type[Node], weight: Tensor, **fields: Any
) -> Pending:
    """The product with the weights of a layer, with its scale and bias deferred.

    `one_bit` or `real` is the node, with other `fields`; `weight` has the real weights, outputs first.
    """
    layer = call.module
    if getattr(layer, "input_quantizer", None) is not None:
        path = f"{call.name}.input_quantizer"
        x = folder.apply(Call(f"{call.name}.sign", layer.input_quantizer, path=path), x)
    source = folder.write(x)
    scale: Tensor | None = None
    if layer in folder.shipped:
        shipped = folder.shipped[layer]
        scale = None if shipped.scale is None else check_finite(call.name, "scales", shipped.scale)
        fields.update(_one_bit_fields(call.name, shipped))
        if shipped.centre is not None:  # a center needs the sum of the inputs, so nothing can be deferred
            centre = check_finite(call.name, "centers", shipped.centre)
            fields.update(centre=centre.numpy(), scale=None if scale is None else scale.numpy())
            scale = None
        base = folder.emit(one_bit, call.name, source, **fields)
    else:
        rows = _rows(check_finite(call.name, "weights", weight)).contiguous()
        base = folder.emit(real, call.name, source, weight=rows.numpy(), **fields)
    y, bound = Pending(base), folder.values[base].bound
    if scale is not None:
        exact = bound is not None and sums_are_exact(bound, scale, None)
        y = y.then(FoldedOp(call.name, lambda sums: sums * scale, scale=scale.double().numpy(), exact=exact))
    if layer.bias is not None:
        bias = check_finite(call.name, "biases", layer.bias)
        exact = bound is not None and sums_are_exact(bound, scale, bias)
        y = y.then(FoldedOp(call.name, lambda sums: sums + bias, shift=bias.double().numpy(), exact=exact))
    return y


def _one_bit_fields(name: str, weight: BinaryWeight) -> dict[str, Any]:
    rows = _rows(weight.signs.detach())
    try:
        return {"signs": pack_signs(rows.numpy()), "in_features": rows.shape[1]}
    except NotBinaryError as error:
        raise NotBinaryError(f"layer {name!r}: {error}") from None


def _rows(weight: Tensor) -> Tensor:
    """A row per output, input channels last: (O, I, kH, kW) -> (O, kH·kW·I); (O, I) stays."""
    return torch.movedim(weight, 1, -1).flatten(1)
