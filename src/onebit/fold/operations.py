"""The table `FOLDS`: how each layer, function and tensor method becomes part of a packed net."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.fold import image_layers, weight_layers
from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Call, Folder, Operation, check_finite
from onebit.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear, InputCoding, RPReLU
from onebit.packed import Hardtanh, InputSpec, Prelu, Relu
from onebit.packed.net import INPUT
from onebit.quantizers import BinaryInput, Quantizer, sign


def _input_coding(folder: Folder, call: Call, x: Pending) -> Pending:
    coding: InputCoding = call.module
    assert call.node is not None
    if call.node.all_input_nodes[0].op != "placeholder" or folder.coding not in (None, coding):
        raise call.refusal("expected one coding, of the image itself")
    moments: dict[str, Any] = {}
    if coding.coding == "standardize":
        for what in ("mean", "std"):
            tensor = check_finite(call.name, f"{what} values", getattr(coding, what))
            moments[what] = np.broadcast_to(tensor.reshape(-1).numpy(), folder.shape[:1]).copy()
    folder.coding = coding
    folder.input = InputSpec(shape=folder.shape, coding="standardise" if moments else "integer", **moments)
    folder.values[INPUT] = folder.input.value
    if folder.input.value.exact:
        folder.ranges[INPUT] = range(-255, 256, 2)
    return x


def _batch_norm(folder: Folder, call: Call, x: Pending) -> Pending:
    norm: nn.BatchNorm1d | nn.BatchNorm2d = call.module
    if norm.running_mean is None or norm.running_var is None:
        raise call.refusal("with track_running_stats=False the logits depend on the other images of the batch")
    for what, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        if tensor.is_floating_point():
            check_finite(call.name, f"BatchNorm {what} values", tensor)

    # torch computes scale·x + shift; get both from torch, as its numbers differ from the formula's in the last digits
    def apply(x: Tensor) -> Tensor:
        return norm(x) if isinstance(norm, nn.BatchNorm1d) else norm(x[:, :, None, None])[:, :, 0, 0]

    zeros = torch.zeros(1, norm.num_features)
    with torch.no_grad():
        scale = F.batch_norm(zeros + 1, zeros[0], norm.running_var, norm.weight, None, eps=norm.eps)[0]
        shift = apply(zeros)[0]
    for tensor in (scale, shift):
        check_finite(call.name, "folded BatchNorm values", tensor)
    return folder.then(x, FoldedOp(call.name, apply, scale=scale.double().numpy(), shift=shift.double().numpy()))


def _sign(folder: Folder, call: Call, x: Pending) -> Pending:
    given = _binary_input(call)
    signs = folder.signed(call, x, given)
    if given.scale is None and given.centre is None:
        return signs
    (channels, *_) = folder.values[signs.base].shape
    scale = torch.ones(()) if given.scale is None else given.scale
    centre = torch.zeros(()) if given.centre is None else given.centre
    factor, shift = (tensor.double().expand(channels).numpy() for tensor in (scale, centre))
    return signs.then(FoldedOp(f"{call.name}.values", lambda x: x * scale + centre, scale=factor, shift=shift))


def _binary_input(call: Call) -> BinaryInput:
    """The `binary_input()` of an input quantizer, checked on some values."""
    quantizer: Quantizer = call.module
    given = quantizer.binary_input()
    assert given is not None
    for what, tensor in zip(("shifts", "scales", "centers"), given, strict=True):
        if tensor is not None:
            check_finite(call.path or call.name, what, tensor)
    shift, scale, centre = (torch.zeros(1) if tensor is None else tensor for tensor in given)
    x = shift + torch.tensor([-3.0, -1.0, -0.25, -1e-6, -0.0, 0.0, 1e-6, 0.25, 1.0, 3.0])[:, None]
    expected = sign(x - shift) * (1 if given.scale is None else scale) + centre
    with torch.no_grad():
        same = torch.allclose(quantizer(x), expected)
    if not same:
        raise call.refusal("it does not compute what its binary_input() says")
    return given


def _relu(folder: Folder, call: Call, x: Pending) -> Pending:
    return x.then(FoldedOp(call.name, torch.relu, kind=Relu))


def _prelu(folder: Folder, call: Call, x: Pending) -> Pending:
    slope = check_finite(call.name, "slopes", call.module.weight)
    assert call.node is not None
    return _bent(folder, call, x, slope.expand(call.shapes[1][1]))


def _rprelu(folder: Folder, call: Call, x: Pending) -> Pending:
    layer: RPReLU = call.module
    before, after = (check_finite(call.name, "shifts", shift) for shift in (layer.shift_in, layer.shift_out))
    slope = check_finite(call.name, "slopes", layer.slope)
    x = folder.then(x, _shifted(f"{call.name}.in", -before))
    return folder.then(_bent(folder, call, x, slope), _shifted(f"{call.name}.out", after))


def _bent(folder: Folder, call: Call, x: Pending, slope: Tensor) -> Pending:
    """`x` where it is positive, else slope · x."""
    if x.moved:
        x = Pending(folder.write(x))
    fields = {"slope": slope.contiguous().numpy()}
    y = x.then(FoldedOp(call.name, lambda x: F.prelu(x, slope), kind=Prelu, fields=fields))
    # with a negative slope it is not monotonic: no integer threshold can replace it
    return y if bool((slope >= 0).all()) else Pending(folder.write(y))


def _shifted(name: str, shift: Tensor) -> FoldedOp:
    return FoldedOp(name, lambda x: x + shift, shift=shift.double().numpy())


def _hardtanh(folder: Folder, call: Call, x: Pending) -> Pending:
    low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    if (low, high) != (-1, 1):
        raise call.refusal(f"got the bounds {low} and {high}, expected -1 and 1")
    return x.then(FoldedOp(call.name, F.hardtanh, kind=Hardtanh))


def _dropout(folder: Folder, call: Call, x: Pending) -> Pending:
    if call.module is None and call.argument(2, "training", True):
        raise call.refusal("it drops values in eval mode too; pass training=self.training")
    return x


def _same(folder: Folder, call: Call, x: Pending) -> Pending:
    return x


FOLDS: dict[Any, Operation] = {
    InputCoding: _input_coding,
    BinaryLinear: weight_layers.linear,
    BinaryConv2d: weight_layers.conv,
    BinaryConvTranspose2d: weight_layers.conv_transpose,
    nn.Linear: weight_layers.linear,
    nn.Conv2d: weight_layers.conv,
    nn.ConvTranspose2d: weight_layers.conv_transpose,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    Quantizer: _sign,
    nn.ReLU: _relu,
    nn.PReLU: _prelu,
    RPReLU: _rprelu,
    nn.Hardtanh: _hardtanh,
    nn.MaxPool2d: image_layers.max_pool,
    nn.AvgPool2d: image_layers.average_pool,
    nn.AdaptiveAvgPool2d: image_layers.adaptive_average_pool,
    nn.ZeroPad2d: image_layers.pad,
    nn.ConstantPad2d: image_layers.pad,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
    nn.Identity: _same,
    nn.Flatten: image_layers.reshape,
    F.relu: _relu,
    torch.relu: _relu,
    "relu": _relu,
    F.hardtanh: _hardtanh,
    F.max_pool2d: image_layers.max_pool,
    F.avg_pool2d: image_layers.average_pool,
    F.adaptive_avg_pool2d: image_layers.adaptive_average_pool,
    torch.mean: image_layers.mean,
    "mean": image_layers.mean,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    operator.add: image_layers.add,
    operator.iadd: image_layers.add,
    torch.add: image_layers.add,
    "add": image_layers.add,
    "add_": image_layers.add,
    torch.cat: image_layers.concat,
    F.pad: image_layers.pad,
    operator.getitem: image_layers.select,
    torch.flatten: image_layers.reshape,
    torch.reshape: image_layers.reshape,
    torch.squeeze: image_layers.reshape,
    "flatten": image_layers.reshape,
    "reshape": image_layers.reshape,
    "squeeze": image_layers.reshape,
    "view": image_layers.reshape,
    "contiguous": _same,
    "float": _same,
}
"""By layer class, function, or name of a tensor method."""
