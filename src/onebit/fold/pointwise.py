"""Elementwise operations: the coding of the input, BatchNorm, signs, activations, conversions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from onebit.fold.arithmetic import with_constant
from onebit.fold.call import Call, any_batch, any_dtype
from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Folder
from onebit.fold.shapes import channels_back, channels_first
from onebit.layers import InputCoding, Normalize, RPReLU
from onebit.packed import Clamp, Hardtanh, InputSpec, Node, Prelu, Relu
from onebit.packed.nodes.activation import Gelu, GeluTanh
from onebit.quantizers import BinaryInput, Quantizer, SteSign, sign


def input_coding(folder: Folder, call: Call, x: Pending) -> Pending:
    """The coding of the image, which becomes the input specification of the packed net."""
    coding: InputCoding = call.module
    source = call.node.all_input_nodes[0]
    alone = source.op == "placeholder" and all(user.target == call.node.target for user in source.users)
    if not alone or folder.inputs[name := str(source.target)].dtype != "uint8":
        raise call.refusal("expected one coding, of the uint8 image itself")
    shape = folder.inputs[name].shape
    if coding.coding != "standardize":
        folder.set_input(name, InputSpec(shape=shape))
        return x
    if len(shape) != 3:
        raise call.refusal(f"got inputs of shape {shape}, expected images (C, H, W); use onebit.Normalize")
    mean, std = (np.broadcast_to(x.reshape(-1).numpy(), shape[:1]) for x in (coding.mean, coding.std))
    folder.set_input(name, InputSpec(shape=shape, coding="standardise", mean=mean, std=std))
    return x


def normalize(folder: Folder, call: Call, x: Pending) -> Pending:
    layer: Normalize = call.module
    before, _ = call.shapes
    if call.node.all_input_nodes[0].meta["value"].dtype == torch.uint8:
        x = with_constant(folder, call, x, 255.0, torch.div, name=f"{call.name}.pixels")
    for what, compute in (("mean", torch.sub), ("std", torch.div)):
        numbers: Tensor = getattr(layer, what)
        numbers = numbers.view(-1, *[1] * (len(before) - 2)) if numbers.dim() else numbers
        x = with_constant(folder, call, x, numbers, compute)
    return x


@any_batch
def batch_norm(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    names = ("running_mean", "running_var", "weight", "bias", "training")
    mean, variance, weight, bias, training = (call.argument(at, name, None) for at, name in enumerate(names, 1))
    if training or mean is None or any(isinstance(x, fx.Node) for x in (mean, variance, weight, bias)):
        raise call.refusal("in training mode, or without constant statistics, it depends on the whole batch")
    eps, pixels = call.argument(7, "eps", 1e-5), [1] * (len(call.before) - 2)

    # torch computes scale·x + shift: read both from torch, since the formula differs in the last digits
    def apply(x: Tensor) -> Tensor:
        return F.batch_norm(x.view(*x.shape, *pixels), mean, variance, weight, bias, eps=eps).view(x.shape)

    zeros = torch.zeros(1, len(variance), dtype=variance.dtype)
    with torch.no_grad():
        scale = F.batch_norm(zeros + 1, zeros[0], variance, weight, None, eps=eps)[0]
        shift = apply(zeros)[0]
        factor = (1.0 if weight is None else weight.double()) / (variance.double() + eps).sqrt()
        base = (0.0 if bias is None else bias.double()) - mean.double() * factor
    formula = factor.numpy(), base.numpy()
    op = FoldedOp(call.name, apply, scale=scale.double().numpy(), shift=shift.double().numpy(), formula=formula)
    sample, axes = call.before[1:], (call.axis(1),)
    y = folder.then(channels_first(folder, call, x, sample, axes), op)
    return channels_back(folder, call, y, sample, axes)


def input_quantizer(folder: Folder, call: Call, x: Pending) -> Pending:
    quantizer: Quantizer = call.module
    stated = quantizer.binary_input()
    if stated is None:
        return _integer_quantizer(folder, call, x)
    level = torch.zeros(1) if stated.shift is None else stated.shift
    scale = torch.ones(()) if stated.scale is None else stated.scale
    centre = torch.zeros(()) if stated.centre is None else stated.centre
    tried = level + torch.tensor([-3.0, -1.0, -0.25, -1e-6, -0.0, 0.0, 1e-6, 0.25, 1.0, 3.0])[:, None]
    with torch.no_grad():
        same = tried.isfinite().all() and torch.allclose(quantizer(tried), sign(tried - level) * scale + centre)
    if not same:
        raise call.refusal("it does not compute what its binary_input() states")
    signs = folder.signed(call, x, stated)
    if stated.scale is None and stated.centre is None:
        return signs
    channels = folder.values[signs.base].shape[0]
    factor, shift = (tensor.double().expand(channels).numpy() for tensor in (scale, centre))
    return signs.then(FoldedOp(f"{call.name}.values", lambda x: x * scale + centre, scale=factor, shift=shift))


SIGN = SteSign()
"""Computes what `onebit.sign` does."""


def sign_function(folder: Folder, call: Call, x: Pending) -> Pending:
    if len(call.node.args) + len(call.node.kwargs) > 1 and call.argument(1, "threshold", 0) != 0:
        raise call.refusal("expected the threshold 0")
    return folder.signed(call._replace(module=SIGN), x, BinaryInput())


def ternary(folder: Folder, call: Call, *values: Pending) -> Pending:
    raise call.refusal("it gives other values than ±1, such as torch.sign(0) = 0: use onebit.sign(x), or SteSign()")


def _integer_quantizer(folder: Folder, call: Call, x: Pending) -> Pending:
    """`Quantize` of x / step, then times the step, which is deferred past the weights that follow."""
    quantizer: Any = call.module
    stated = quantizer.integer_input()
    step = stated.step.detach()
    numbers = torch.arange(stated.least - 2, stated.most + 3) + torch.tensor([-0.25, 0.0, 0.25])[:, None]
    with torch.no_grad():
        if not torch.equal(quantizer(numbers * step), numbers.round().clamp(stated.least, stated.most) * step):
            raise call.refusal("it does not compute what its integer_input() states")
    least = stated.least
    if x.ops and x.ops[-1].kind is Relu:  # clipping at 0 replaces it
        x, least = Pending(x.base, x.ops[:-1]), 0
    if x.moved:  # its channels are not those of the base
        x = Pending(folder.write(x))
    count, size = folder.values[x.base].shape[0], float(step)
    divided = FoldedOp(f"{call.name}.step", lambda x: x / step, scale=np.full(count, 1 / size))
    integers = folder.rounded(call, x.then(divided), least, stated.most)
    if size == 1:
        return Pending(integers)
    times = FoldedOp(f"{call.name}.values", lambda x: x * step, scale=np.full(count, size), exact=False)
    return Pending(integers, (times,))


@any_batch
def relu(folder: Folder, call: Call, x: Pending) -> Pending:
    return x.then(FoldedOp(call.name, torch.relu, kind=Relu))


def prelu(folder: Folder, call: Call, x: Pending) -> Pending:
    slope: Tensor = call.argument(1, "weight", None)
    return _leaky(folder, call, x, slope.detach().expand(call.shapes[1][1]))


def leaky_relu(folder: Folder, call: Call, x: Pending) -> Pending:
    slope = float(call.argument(1, "negative_slope", 0.01))
    return _leaky(folder, call, x, torch.full(call.shapes[1][1:2], slope))


def rprelu(folder: Folder, call: Call, x: Pending) -> Pending:
    layer: RPReLU = call.module
    x = folder.then(x, _shifted(f"{call.name}.in", -layer.shift_in.detach()))
    y = _leaky(folder, call, x, layer.slope.detach())
    return folder.then(y, _shifted(f"{call.name}.out", layer.shift_out.detach()))


def _leaky(folder: Folder, call: Call, x: Pending, slope: Tensor) -> Pending:
    """`x` where it is positive, else slope · x."""
    fields = {"slope": slope.contiguous().numpy()}
    return folder.then(x, FoldedOp(call.name, lambda x: F.prelu(x, slope), kind=Prelu, fields=fields))


def _shifted(name: str, shift: Tensor) -> FoldedOp:
    return FoldedOp(name, lambda x: x + shift, shift=shift.double().numpy())


@any_batch
def hardtanh(folder: Folder, call: Call, x: Pending) -> Pending:
    low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    if (low, high) == (-1, 1):
        return x.then(FoldedOp(call.name, F.hardtanh, kind=Hardtanh))
    return clamped(folder, call, x, low, high)


@any_batch
def clamp(folder: Folder, call: Call, x: Pending) -> Pending:
    return clamped(folder, call, x, call.argument(1, "min", None), call.argument(2, "max", None))


@any_batch
def clamp_max(folder: Folder, call: Call, x: Pending) -> Pending:
    return clamped(folder, call, x, None, call.argument(1, "max", None))


@any_batch
def clamped(folder: Folder, call: Call, x: Pending, low: Any, high: Any, *, name: str = "") -> Pending:
    fields: dict[str, np.ndarray] = {}
    for side, bound, free in (("low", low, -np.inf), ("high", high, np.inf)):
        if isinstance(bound, fx.Node) or (isinstance(bound, Tensor) and bound.numel() != 1):
            raise call.refusal("expected numbers as bounds")
        if bound is not None and np.float32(bound) != free:
            fields[side] = np.array([float(bound)], np.float32)
    if not fields:
        return x
    if len(fields) == 2:
        fields["low"] = np.minimum(fields["low"], fields["high"])  # as in torch, the upper bound wins
    least, most = (float(fields[side][0]) if side in fields else None for side in ("low", "high"))
    op = FoldedOp(name or call.name, lambda sums: sums.clamp(least, most), kind=Clamp, fields=dict(fields))
    return x.then(op)


@any_batch
def hardsigmoid(folder: Folder, call: Call, x: Pending) -> Pending:
    name = f"{call.name}.clamp"
    y = with_constant(folder, call, x, 3.0, torch.add, name=f"{call.name}.shift")
    return with_constant(folder, call, clamped(folder, call, y, 0.0, 6.0, name=name), 6.0, torch.div)


@any_batch
def activation(kind: type[Node], folder: Folder, call: Call, x: Pending) -> Pending:
    return folder.elementwise(kind, call.name, x)


@any_batch
def gelu(folder: Folder, call: Call, x: Pending) -> Pending:
    return activation(GeluTanh if call.argument(1, "approximate", "none") == "tanh" else Gelu, folder, call, x)


@any_batch
@any_dtype
def dropout(folder: Folder, call: Call, x: Pending) -> Pending:
    if call.argument(2, "training", True):
        raise call.refusal("it drops values in eval mode; pass training=self.training")
    return x


@any_batch
@any_dtype
def convert(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    before, after = call.node.args[0].meta["value"].dtype, call.node.meta["value"].dtype
    whole = (torch.uint8, torch.int16, torch.int32, torch.int64)
    if after in (before, torch.float32) or (
        before in whole and after in whole[1:] and after.itemsize > before.itemsize
    ):
        return x
    raise call.refusal(f"it turns {before} into {after}, expected torch.float32")
