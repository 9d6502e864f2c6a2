"""Dense layers and convolutions, with one-bit or real weights."""

from __future__ import annotations

from math import prod
from operator import add
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onebit.errors import FoldError
from onebit.fold.arrange import take, taken
from onebit.fold.call import Call, Shape, any_batch, any_dtype, inverse
from onebit.fold.chain import FoldedOp, Pending, sums_are_exact
from onebit.fold.folder import Folder
from onebit.fold.shapes import as_image, from_image
from onebit.fold.trace import called_in
from onebit.fold.unrolled import COMPUTED_BY
from onebit.layers.binary import padding_of
from onebit.packed import Conv, ConvTranspose, Dense, MaxPool, Node, RealConv, RealConvTranspose, RealDense
from onebit.packed.bits import pack_signs
from onebit.packed.nodes.node import SUM_LIMIT
from onebit.quantizers import BinaryWeight, Quantizer


@any_batch
def linear(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    weight, bias = _constants(call)
    part, rows, name = getattr(weight, COMPUTED_BY, (None, None, ""))
    call = call._replace(name=f"{called_in(call.node)[0]}.{name}") if name else call
    binary: Any = () if part is None else (one if one is None else one[rows] for one in folder.shipped[part])
    return dense(folder, call, x, weight if part is None else BinaryWeight(*binary), bias)


def dense(
    folder: Folder, call: Call, x: Pending, weight: Any, bias: Tensor | None, sample: Shape | None = None
) -> Pending:
    """A dense layer on the last axis of a sample; with more axes, a 1×1 convolution over them."""
    sample = call.before[1:] if sample is None else sample
    if len(sample) == 1:
        return _matmul(folder, call, _quantized(folder, call, x), Dense, RealDense, weight, bias)
    last = len(sample) - 1
    x = folder.permuted(call, x, (last, *range(last)))
    x = _quantized(folder, call, x)
    *others, features = sample
    image = (1, prod(others))
    x = folder.reshaped(call, x, (features, *others), (features, *image))
    y = _matmul(folder, call, x, Conv, RealConv, weight, bias, kernel=(1, 1))
    outputs = folder.values[y.base].shape[0]
    y = folder.reshaped(call, y, (outputs, *image), (outputs, *others))
    return folder.permuted(call, y, (*range(1, len(sample)), 0))


def conv(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    layer = _layer(call, "stride", "padding", "dilation", "groups")
    x = _quantized(folder, call, x)
    fields = window_of(layer)
    x, before, _ = as_image(folder, call, x)
    if layer.padding_mode != "zeros":
        mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[layer.padding_mode]
        image = before[1:]
        for axis, ends in enumerate((fields["padding"][:2], fields["padding"][2:]), 1):
            indices = np.pad(np.arange(image[axis]), ends, mode=mode)  # type: ignore[call-overload]
            x, image = taken(folder, call, x, image, axis, indices)
        fields["padding"] = (0, 0, 0, 0)
    y = _matmul(folder, call, _unpadded(folder, x, fields), Conv, RealConv, layer.weight, layer.bias, **fields)
    return from_image(folder, call, y)


def conv_transpose(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    layer = _layer(call, "stride", "padding", "output_padding", "groups", "dilation")
    x, before, after = as_image(folder, call, _quantized(folder, call, x))
    fields = window_of(layer)
    kernel, stride, dilation = (np.array(fields[name]) for name in ("kernel", "stride", "dilation"))
    span = (np.array(before[2:]) - 1) * stride + dilation * (kernel - 1) + 1 - 2 * np.array(fields["padding"][::2])
    fields["extra"] = tuple((after[2:] - span).tolist())  # from the result, as forward may take an output size
    weight = layer.weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)  # outputs first
    y = _matmul(folder, call, x, ConvTranspose, RealConvTranspose, weight, layer.bias, **fields)
    return from_image(folder, call, y)


def _layer(call: Call, *order: str) -> Any:
    """A convolution; of a function, its arguments under the names of the layer, after weight and bias in this order."""
    if call.module is not None:
        return call.module
    weight, bias = _constants(call)
    axes = weight.dim() - 2
    sizes = {name: call.argument(at, name, int(name in ("stride", "dilation"))) for at, name in enumerate(order, 3)}
    groups = sizes.pop("groups") or 1
    whole = {name: (size,) * axes if isinstance(size, int) else size for name, size in sizes.items()}
    kinds = {"transposed": "output_padding" in order, "padding_mode": "zeros", "kernel_size": tuple(weight.shape[2:])}
    return SimpleNamespace(weight=weight, bias=bias, groups=groups, **whole, **kinds)


def _constants(call: Call) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer or function."""
    weight, bias = call.argument(1, "weight", None), call.argument(2, "bias", None)
    if not isinstance(weight, Tensor) or not isinstance(bias, (Tensor, type(None))):
        raise call.refusal("its weights are computed from the input, expected parameters of the model")
    return weight, bias


def _unpadded(folder: Folder, x: Pending, fields: dict[str, Any]) -> Pending:
    """`x` before a constant border, which becomes the padding in `fields`."""
    node: Any = next((node for node in folder.nodes if node.output == x.base), None)
    if x.ops or getattr(node, "channels", None) != (0, 0):  # of a Pad of pixels alone
        return x
    if any(fields["padding"]) and node.value != fields["padding_value"]:
        return x
    total = tuple(map(add, fields["padding"], node.padding))
    fields |= {"padding": total, "padding_value": node.value}
    return Pending(node.inputs[0])


def window_of(layer: Any) -> dict[str, Any]:
    """The window fields of `onebit.packed.Conv` for a (transposed) convolution; signals have height 1."""
    fields = {"groups": layer.groups}
    for name, sizes in (("kernel", layer.kernel_size), ("stride", layer.stride), ("dilation", layer.dilation)):
        fields[name] = (1, *sizes)[-2:]
    if layer.transposed:
        down, across = (0, *layer.padding)[-2:]
        return {**fields, "padding": (down, down, across, across), "extra": (0, *layer.output_padding)[-2:]}
    left, right, top, bottom = (*padding_of(layer), 0, 0)[:4]
    return {**fields, "padding": (top, bottom, left, right), "padding_value": int(getattr(layer, "padding_value", 0))}


def _quantized(folder: Folder, call: Call, x: Pending) -> Pending:
    """`x` after the input quantizer of the layer, if it has one."""
    if getattr(call.module, "input_quantizer", None) is None:
        return x
    quantizer, path = call.module.input_quantizer, f"{call.name}.input_quantizer"
    signs = not isinstance(quantizer, Quantizer) or quantizer.integer_input() is None
    return folder.apply(Call(f"{call.name}.{'sign' if signs else 'quantized'}", quantizer, path=path), x)


def _matmul(
    folder: Folder,
    call: Call,
    x: Pending,
    one_bit: type[Node],
    real: type[Node],
    weight: Tensor | BinaryWeight,
    bias: Tensor | None,
    **fields: Any,
) -> Pending:
    """The product with the weights of a layer, with its scale and bias deferred.

    The node is `one_bit` or `real`, with further `fields`; `weight` has the real weights, outputs first.
    """
    shipped = weight if isinstance(weight, BinaryWeight) else folder.shipped.get(call.module)
    if shipped is not None and shipped.grouped:
        raise FoldError(f"layer {call.name!r}: a scale per group of inputs packs layer by layer only")
    terms = 0 if shipped is None else shipped.signs[0].numel()
    factor, x = (None, x) if fields.get("padding_value") else _without_factor(folder, x, terms)
    source = folder.write(x)
    rows = weight_rows(weight if shipped is None else shipped.signs)  # type: ignore[arg-type]
    scale: Tensor | None = None
    if shipped is None:
        base = folder.emit(real, call.name, source, weight=rows, **fields)
    else:
        fields |= {"signs": pack_signs(rows), "in_features": rows.shape[1]}
        if shipped.centre is None:
            scale = shipped.scale
        else:  # a center needs the sum of the inputs: nothing can be deferred
            numbers = {"centre": shipped.centre, "scale": shipped.scale}
            fields |= {name: tensor.numpy() for name, tensor in numbers.items() if tensor is not None}
        base = folder.emit(one_bit, call.name, source, **fields)
    y, bound = Pending(base), folder.values[base].bound
    outputs = folder.values[base].shape[0]
    if factor is not None:
        name = f"{call.name}.factor"
        y = y.then(FoldedOp(name, lambda sums: sums * factor, scale=np.full(outputs, factor), exact=False))
    if scale is not None:
        exact = bound is not None  # torch multiplies sums of integers, see `BinaryLayer.weight_by_rows`
        y = y.then(FoldedOp(call.name, lambda sums: sums * scale, scale=scale.double().numpy(), exact=exact))
    if bias is not None:
        bias = bias.detach()
        exact = bound is not None and (scale is not None or sums_are_exact(bound, bias))
        y = y.then(FoldedOp(call.name, lambda sums: sums + bias, shift=bias.double().numpy(), exact=exact))
    return y


def _without_factor(folder: Folder, x: Pending, terms: int) -> tuple[float | None, Pending]:
    """(factor, x / factor) for integers times one number, so that the weights multiply integers; else (None, x).

    Also (None, x) if sums of `terms` integers may overflow int32, as after averages of large windows.
    """
    factors, bound = [op.factor for op in x.ops if op.kind is None], folder.values[x.base].bound
    moves = tuple(op for op in x.ops if op.kind is not None)
    if not factors or not all(factors) or not all(op.moves for op in moves):
        return None, x
    if bound is None or terms * bound > SUM_LIMIT:
        return None, x
    pools = [i for i, op in enumerate(x.ops) if op.kind is MaxPool]
    if pools and any((op.factor or 0) < 0 for op in x.ops[: pools[-1]]):  # maxima become minima of the integers
        return None, x
    return prod(factors), Pending(x.base, moves)  # type: ignore[arg-type]


def weight_rows(weight: Tensor) -> np.ndarray:
    """A row per output, input channels last: (O, I, …) -> (O, …·I); (O, I) stays."""
    return torch.movedim(weight.detach(), 1, -1).flatten(1).contiguous().numpy()


@any_dtype
def upsample(folder: Folder, call: Call, x: Pending) -> Pending:
    """Nearest neighbors as a move; other modes as a matrix for each axis, read off probes."""
    before, after = call.shapes
    run = call.on if call.module is None else call.module
    if str(call.argument(3, "mode", "nearest")).startswith("nearest"):
        # torch rounds its indices, so that some whole factors do not repeat each value
        expected = probe = torch.arange(prod(before[2:]), dtype=torch.float64).view(1, 1, *before[2:])
        for axis, (old, new) in enumerate(zip(before, after, strict=True)):
            expected = expected.repeat_interleave(new // old, axis)
        return folder.repeated(call, x, before, after) if torch.equal(run(probe), expected) else take(folder, call, x)
    if call.node.meta["value"].dtype != torch.float32:
        raise call.refusal(f"it interpolates {call.node.meta['value'].dtype}, expected torch.float32")
    sample = list(before[1:])
    for axis, (old, new) in enumerate(zip(before[1:], after[1:], strict=True)):
        if not axis or old == new:
            continue
        probe = torch.eye(old).view(1, old, *[old if k == axis else 1 for k in range(1, len(sample))])
        made = run(probe.expand(1, old, *before[2:]))[0].movedim(axis, 0)
        order = (*(k for k in range(len(sample)) if k != axis), axis)
        y = folder.permuted(call, x, order)
        y = dense(folder, call, y, made.reshape(new, old, -1)[..., 0], None, tuple(sample[k] for k in order))
        x, sample[axis] = folder.permuted(call, y, inverse(order)), new
    return x
