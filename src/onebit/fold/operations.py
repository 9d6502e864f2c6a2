"""What each layer, function and tensor method becomes in a packed net: one function each, listed in `FOLDS`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.bits import pack_signs
from onebit.errors import NotBinaryError
from onebit.fold.chain import Chain, Pending, Step, sums_are_exact
from onebit.fold.folder import Call, Folder, Operation, check_finite
from onebit.layers import BinaryLinear, InputCoding
from onebit.packed import Dense, Flatten, Hardtanh, InputSpec, RealDense, Relu, Sign, Threshold
from onebit.packed.net import INPUT
from onebit.quantizers import BinaryWeight, SteSign


def _input_coding(folder: Folder, call: Call, x: Pending) -> Pending:
    coding: InputCoding = call.module
    assert call.node is not None
    if call.node.all_input_nodes[0].op != "placeholder" or folder.coding not in (None, coding):
        raise call.refusal("expected one coding, of the image itself")
    moments: dict[str, np.ndarray] = {}
    if coding.coding == "standardise":
        for what in ("mean", "std"):
            tensor = check_finite(call.name, f"{what} values", getattr(coding, what))
            moments[what] = np.broadcast_to(tensor.reshape(-1).numpy(), folder.shape[:1]).copy()
    folder.coding, folder.input = coding, InputSpec(shape=folder.shape, coding=coding.coding, **moments)
    folder.values[INPUT] = folder.input.value
    if folder.input.value.exact:
        folder.reach[INPUT] = range(-255, 256, 2)
    return x


def _linear(folder: Folder, call: Call, x: Pending) -> Pending:
    layer = call.module
    if getattr(layer, "input_quantizer", None) is not None:
        x = folder.apply(Call(f"{call.name}.input_quantizer", layer.input_quantizer), x)
    source = folder.write(x)
    scale: Tensor | None = None
    if layer in folder.shipped:
        base, scale = _binary_dense(folder, call.name, source, folder.shipped[layer])
    else:
        weight = check_finite(call.name, "weights", layer.weight)
        base = folder.emit(RealDense, call.name, source, weight=weight.numpy())
    y, bound = Pending(base), folder.values[base].bound
    if scale is not None:
        exact = bound is not None and sums_are_exact(bound, scale, None)
        y = y.then(Step(call.name, lambda sums: sums * scale, scale=scale.double().numpy(), exact=exact))
    if layer.bias is not None:
        bias = check_finite(call.name, "biases", layer.bias)
        exact = bound is not None and sums_are_exact(bound, scale, bias)
        y = y.then(Step(call.name, lambda sums: sums + bias, shift=bias.double().numpy(), exact=exact))
    return y


def _binary_dense(folder: Folder, name: str, source: str, weight: BinaryWeight) -> tuple[str, Tensor | None]:
    """The product with one-bit weights, and the scale that is left to apply."""
    try:
        signs = pack_signs(weight.signs.detach().numpy())
    except NotBinaryError as error:
        raise NotBinaryError(f"layer {name!r}: {error}") from None
    inputs = weight.signs.shape[1]
    scale = None if weight.scale is None else check_finite(name, "scales", weight.scale)
    if weight.centre is not None:  # both values need the sum of the inputs: nothing is left for later
        centre = check_finite(name, "centres", weight.centre).numpy()
        factor = None if scale is None else scale.numpy()
        return folder.emit(Dense, name, source, signs=signs, in_features=inputs, scale=factor, centre=centre), None
    base = folder.emit(Dense, name, source, signs=signs, in_features=inputs)
    if source in folder.reach:
        terms = folder.reach[source]
        most = inputs * terms[-1]
        folder.reach[base] = range(-most, most + 1, terms.step)  # sums of odd numbers have one parity
    return base, scale


def _batch_norm(folder: Folder, call: Call, x: Pending) -> Pending:
    norm: nn.BatchNorm1d = call.module
    if norm.running_mean is None or norm.running_var is None:
        raise call.refusal("with track_running_stats=False an answer depends on the other images of the batch")
    for what, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        if tensor.is_floating_point():
            check_finite(call.name, f"BatchNorm {what} values", tensor)
    # torch turns it into scale·x + shift; its own two numbers differ from the formula's in their last digits, so ask it
    zeros = torch.zeros(1, norm.num_features)
    with torch.no_grad():
        scale = F.batch_norm(zeros + 1, zeros[0], norm.running_var, norm.weight, None, eps=norm.eps)[0]
        shift = norm(zeros)[0]
    for tensor in (scale, shift):
        check_finite(call.name, "folded BatchNorm values", tensor)
    return x.then(Step(call.name, norm, scale=scale.double().numpy(), shift=shift.double().numpy()))


def _sign(folder: Folder, call: Call, x: Pending) -> Pending:
    value = folder.values[x.base]
    if not value.exact:
        made = folder.emit(Sign, call.name, folder.write(x))
        folder.add_sign(made, call, None)
        return Pending(made)
    chain = Chain(x.steps, call.module, value.shape[0], folder.reach[x.base])
    threshold, direction = chain.settle()
    made = folder.emit(Threshold, call.name, x.base, threshold=threshold, direction=direction)
    folder.add_sign(made, call, chain)
    return Pending(made)


def _relu(folder: Folder, call: Call, x: Pending) -> Pending:
    return x.then(Step(call.name, torch.relu, clip=Relu))


def _hardtanh(folder: Folder, call: Call, x: Pending) -> Pending:
    low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    if (low, high) != (-1, 1):
        raise call.refusal(f"got the bounds {low} and {high}, expected -1 and 1")
    return x.then(Step(call.name, F.hardtanh, clip=Hardtanh))


def _dropout(folder: Folder, call: Call, x: Pending) -> Pending:
    if call.module is None and call.argument(2, "training", True):
        raise call.refusal("it drops values in eval mode too; pass training=self.training")
    return x


def _same(folder: Folder, call: Call, x: Pending) -> Pending:
    return x


def _reshape(folder: Folder, call: Call, x: Pending) -> Pending:
    # recognised by its effect, because the many spellings of flatten have different arguments
    assert call.node is not None
    before, after = call.node.all_input_nodes[0].meta["value"].shape, call.node.meta["value"].shape
    if after == before:
        return x
    if after != (before[0], prod(before[1:])):
        raise call.refusal(f"it makes {_shape(after)} of {_shape(before)}, expected (N, {prod(before[1:])})")
    source = folder.write(x)
    made = folder.emit(Flatten, call.name, source)
    if source in folder.reach:
        folder.reach[made] = folder.reach[source]
    return Pending(made)


def _shape(size: Sequence[int]) -> str:
    return f"(N, {', '.join(str(axis) for axis in size[1:])})"


FOLDS: dict[Any, Operation] = {
    InputCoding: _input_coding,
    BinaryLinear: _linear,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    SteSign: _sign,
    nn.ReLU: _relu,
    nn.Hardtanh: _hardtanh,
    nn.Dropout: _dropout,
    nn.Identity: _same,
    nn.Flatten: _reshape,
    F.relu: _relu,
    torch.relu: _relu,
    "relu": _relu,
    F.hardtanh: _hardtanh,
    F.dropout: _dropout,
    torch.flatten: _reshape,
    torch.reshape: _reshape,
    "flatten": _reshape,
    "reshape": _reshape,
    "view": _reshape,
    "contiguous": _same,
    "float": _same,
}
"""By layer class, function, or name of a tensor method."""
