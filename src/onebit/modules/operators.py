"""Operators of torch: what all of them share, and `packed_linear` and `packed_conv`, products with one-bit weights.

A layer runs as a packed net of one product. Its native plans, one for each input size, are cached until the tensor of
its bits is freed.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.grad import conv2d_input

from onebit.common.torch_private import in_forward_mode, is_watched
from onebit.errors import FormatError, UsageError
from onebit.native import NativePlan, NotPlanned, instruction_set, make_plan, run_shares, thread_count
from onebit.packed import Affine, Conv, ConvTranspose, Dense, InputSpec, Node, PackedNet, Sign
from onebit.packed.bits import bytes_to_words
from onebit.packed.net import INPUT
from onebit.packed.nodes import ScaledDense
from onebit.quantizers import BinaryWeight
from onebit.runtime.executors import executor_of
from onebit.runtime.reference_matmul import one_blas_thread

_THREAD_WORK = 1 << 17  # least work per thread
_MAX_PLANS = 256  # of a layer
_LIBRARY = torch.library.Library("onebit", "FRAGMENT")


def define(schema: str, function: Callable[..., Any], traced: Callable[..., Any]) -> Any:
    """The operator of torch that calls a function; `traced` makes empty outputs, for tracing."""
    name = schema.partition("(")[0]
    # `torch.library.custom_op` would add 5 µs per call
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")  # on every device, for a clear error
    torch.library.register_fake(f"onebit::{name}", traced, lib=_LIBRARY)
    return getattr(torch.ops.onebit, name).default


def is_plain(x: Tensor) -> bool:
    """Whether the function of an operator can read this tensor."""
    return type(x) is Tensor and x.is_cpu and not torch.compiler.is_compiling()


def torch_threads() -> int:
    """ONEBIT_THREADS, or torch's threads."""
    return thread_count() if os.environ.get("ONEBIT_THREADS") else torch.get_num_threads()


def refuse_tangent(x: Tensor, what: str) -> None:
    """Raise a UsageError in `torch.func.jvp` and the like, where the operators would give tangents of 0."""
    if in_forward_mode() and forward_ad.unpack_dual(x).tangent is not None:
        raise UsageError(f"{what} have no forward-mode derivatives: use the unpacked model")


class PackedWindow(NamedTuple):
    """The window of a (transposed) convolution, with the fields of `onebit.packed.Conv` and `ConvTranspose`.

    padding: (top, bottom, left, right). extra: torch's output_padding. padding_value: 0, 1 or -1.
    """

    kernel: tuple[int, int]
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    extra: tuple[int, int] = (0, 0)
    padding_value: int = 0
    transposed: bool = False

    @property
    def numbers(self) -> list[int]:
        """All fields as one list, the argument of the operator."""
        more = self.groups, *self.stride, *self.padding, *self.dilation, *self.extra
        return [*self.kernel, *more, self.padding_value, int(self.transposed)]

    @classmethod
    def of(cls, numbers: Any) -> PackedWindow:
        """The inverse of `numbers`."""
        kh, kw, groups, sh, sw, top, bottom, left, right, dh, dw, down, across, value, transposed = numbers
        padding = (top, bottom, left, right)
        return cls((kh, kw), groups, (sh, sw), padding, (dh, dw), (down, across), value, bool(transposed))

    def output_size(self, height: Any, width: Any) -> tuple[Any, Any]:
        """(H', W') for an image (H, W)."""
        before, sizes = (self.padding[:2], self.padding[2:]), []
        for axis, size in enumerate((height, width)):
            span = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            if self.transposed:
                sizes.append((size - 1) * self.stride[axis] + span + self.extra[axis] - sum(before[axis]))
            else:
                sizes.append((size + sum(before[axis]) - span) // self.stride[axis] + 1)
        return sizes[0], sizes[1]


LayerTensors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""Signs, scale, center and bias of a layer."""


def run_operator(
    x: Tensor, signs: Tensor, scale: Tensor | None, center: Tensor | None, bias: Tensor | None, *more: Any
) -> Tensor:
    """(…, K) -> (…, O), or (N, I, H, W) -> (N, O, H', W') for a window, in the dtype of `x`.

    Args:
        signs: (O, ceil(K / 8)) uint8, see `PackedLayer`.
        more: `PackedWindow.numbers` of a convolution; then whether to take the signs of the inputs.
    """
    window, shape, out_shape = _shapes(x, signs, more)
    tensors, sign_inputs = (signs, scale, center, bias), more[-1]
    isa = instruction_set()
    key = isa.name if isa else None, shape, window, sign_inputs
    plans, panels = _cached(tensors)
    if key not in plans:
        net = _net(tensors, window, tuple(shape), sign_inputs)
        if len(plans) == _MAX_PLANS:
            plans.clear()
        try:
            plans[key] = net if isa is None else make_plan(net, isa, panels)
        except NotPlanned:
            plans[key] = net
    plan, values = plans[key], _values(x)
    if isinstance(plan, NativePlan):
        out = values.new_empty(out_shape)
        if not _run_native(plan, values, shape, out):
            return out if x.dtype is torch.float32 else out.to(x.dtype)
        plan = _net(tensors, window, tuple(shape), sign_inputs)  # a NaN, whose sign is +1
    return _reference(plan, values.view(-1, *shape), sign_inputs).view(out_shape).to(x.dtype)


def _shapes(x: Tensor, signs: Tensor, more: tuple[Any, ...]) -> tuple[PackedWindow | None, torch.Size, tuple[Any, ...]]:
    """The window, and the shapes of a sample and of the outputs."""
    shape = x.shape
    if len(more) == 1:
        return None, shape[-1:], (*shape[:-1], signs.shape[0])
    window = PackedWindow.of(more[0])
    return window, shape[1:], (shape[0], signs.shape[0], *window.output_size(shape[2], shape[3]))


def _run_native(plan: NativePlan, x: Tensor, shape: torch.Size, out: Tensor) -> bool:
    """Write the outputs. Returns whether the sign of a NaN was taken."""
    count, inputs, outputs, threads = x.numel() // shape.numel(), x.data_ptr(), out.data_ptr(), 1
    if (most := plan.work * count // _THREAD_WORK) > 1:
        threads = min(torch_threads(), most)
    if count < threads or threads == 1:
        return count > 0 and plan.run_at(inputs, count, outputs, parts=threads, keep=(x, out))
    of_x, of_out = x.nbytes // count, out.nbytes // count

    def run_some(share: tuple[int, int]) -> bool:
        first, end = share
        return plan.run_at(inputs + first * of_x, end - first, outputs + first * of_out, keep=(x, out))

    return any(list(run_shares(run_some, list(pairwise(count * part // threads for part in range(threads + 1))))))


class _Layer(NamedTuple):
    """Plans of a layer, or nets that the library cannot run, and the weights that they share.

    state: what they were made from: the version of the signs, and of a scale per group, whose bytes would take long to
        compare; the bytes of the others.
    """

    signs: weakref.ref[Tensor]
    scale: Tensor | None
    state: list[Any]
    plans: dict[Any, NativePlan | PackedNet]
    panels: dict[Any, np.ndarray]


_LAYERS: dict[int, _Layer] = {}
"""By the address of the signs."""


def _cached(tensors: LayerTensors) -> tuple[dict[Any, NativePlan | PackedNet], dict[Any, np.ndarray]]:
    """Plans and weights of a layer, empty if its tensors have changed."""
    signs, scale, *_ = tensors
    state: list[Any] = []
    for part in tensors:
        versioned = part is not None and part.dim() == 2 and not part.is_inference()
        state.append(part if part is None else part._version if versioned else part.numpy().tobytes())
    layer = _LAYERS.get(address := signs.data_ptr())
    if layer is None or layer.signs() is not signs or layer.scale is not scale or layer.state != state:
        reference = weakref.ref(signs, lambda _: _LAYERS.pop(address, None))
        layer = _LAYERS[address] = _Layer(reference, scale, state, {}, {})
    return layer.plans, layer.panels


def _net(tensors: LayerTensors, window: PackedWindow | None, shape: tuple[int, ...], sign_inputs: bool) -> PackedNet:
    """The layer as a packed net for samples of this shape."""
    signs, scale, center, bias = (None if part is None else part.numpy().copy() for part in tensors)
    assert signs is not None
    fields: dict[str, Any] = {"scale": scale, "centre": center, "in_features": shape[0]}
    kind: Any = Dense
    if scale is not None and scale.ndim == 2:
        kind, fields = ScaledDense, {"scales": scale, "in_features": shape[0]}
    if window is not None:
        kind, fields = ConvTranspose if window.transposed else Conv, fields | window._asdict()
        del fields["padding_value" if fields.pop("transposed") else "extra"]
        fields["in_features"] = shape[0] // window.groups * prod(window.kernel)
    try:
        fields["signs"] = bytes_to_words(signs, fields["in_features"])
        nodes: list[Node] = [Sign(inputs=(INPUT,), output="signs")] if sign_inputs else []
        nodes.append(kind(inputs=(nodes[-1].output if nodes else INPUT,), output="sums", **fields))
        if bias is not None:
            nodes.append(Affine(inputs=("sums",), output="outputs", shift=bias))
        spec = InputSpec(shape=shape, dtype="float32", coding="values")
        return PackedNet(inputs={INPUT: spec}, nodes=tuple(nodes), output=nodes[-1].output)
    except FormatError as error:
        raise UsageError(str(error)) from None


def _reference(net: PackedNet, x: Tensor, sign_inputs: bool) -> Tensor:
    """The outputs by numpy."""
    values = {INPUT: np.where(x < 0, np.float32(-1), np.float32(1)) if sign_inputs else x.numpy()}
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
        for node in net.nodes:
            (name,) = node.inputs
            values[node.output] = executor_of(node, net.values[name])(values[name])
    return torch.from_numpy(values[net.nodes[-1].output].astype(np.float32, copy=False))


def _values(x: Tensor) -> Tensor:
    """Contiguous float32 values on the CPU."""
    if x.dtype is torch.float32 and x.is_cpu and x.is_contiguous():
        return x
    _check(x)
    return x.to(torch.float32).contiguous()


def _check(x: Tensor) -> None:
    if x.device.type not in ("cpu", "meta") or not x.is_floating_point():
        raise UsageError(f"got {x.dtype} on {x.device}, expected floating point on the CPU, where packed layers run")


def _trace(x: Tensor, signs: Tensor, scale: Any, center: Any, bias: Any, *more: Any) -> Tensor:
    """The fake version, for tracing."""
    _check(x)
    return x.new_empty(_shapes(x, signs, more)[2])


_TENSORS = "Tensor x, Tensor signs, Tensor? scale, Tensor? center, Tensor? bias"
packed_linear = define(f"packed_linear({_TENSORS}, bool sign_inputs) -> Tensor", run_operator, _trace)
packed_conv = define(f"packed_conv({_TENSORS}, int[] window, bool sign_inputs) -> Tensor", run_operator, _trace)


# gradients of inputs


def follows_gradient(x: Tensor) -> bool:
    """Whether the result needs a gradient for `x`. A trace has none: it cannot hold Python functions."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.jit.is_tracing()


def dense_signs(signs: Tensor, terms: int) -> Tensor:
    """The signs of a layer as (O, K) float32 of ±1."""
    bits = signs.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=signs.device) & 1
    return bits.flatten(1)[:, :terms] * 2.0 - 1


def run_layer(layer: Any, x: Tensor, window: PackedWindow | None = None) -> Tensor:
    """The outputs of a packed layer by its operator, with the gradient of the dense layer for `x`.

    Without gradients, where nothing traces, transforms or records operators, the Python function is called directly,
    which is faster than torch's dispatcher.
    """
    if follows_gradient(x):
        return _Differentiable.apply(x, layer, window)
    buffers, run = layer._buffers, packed_linear if window is None else packed_conv
    if is_plain(x) and not (torch.is_grad_enabled() or is_watched()):
        run = run_operator
    more = [layer.sign_inputs] if window is None else [window.numbers, layer.sign_inputs]
    return run(x, buffers["signs"], buffers["scale"], buffers["center"], buffers["bias"], *more)


class _Differentiable(torch.autograd.Function):
    """The operator, with the gradient of the dense layer for its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, window: PackedWindow | None) -> Tensor:
        ctx.save_for_backward(layer.signs, layer.scale, layer.center)
        ctx.sizes = layer.terms, window, x.shape
        return run_layer(layer, x, window)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        signs, scale, center = ctx.saved_tensors
        terms, window, shape = ctx.sizes
        weight = BinaryWeight(dense_signs(signs, terms), scale, center).dense()
        gradient = gradients[0].float()
        if window is None:
            return (gradient @ weight).to(gradients[0].dtype), None, None
        kernel, groups = weight.view(len(weight), *window.kernel, -1).permute(0, 3, 1, 2), window.groups
        (top, bottom, left, right), more = window.padding, (window.stride, 0, window.dilation, groups)
        if window.transposed:  # the adjoint of a transposed convolution is a convolution
            kernel = kernel.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
            to_x = F.conv2d(F.pad(gradient, (left, right, top, bottom)), kernel, None, *more)
            to_x = to_x[:, :, : shape[2], : shape[3]]
        else:
            size = (shape[0], shape[1], shape[2] + top + bottom, shape[3] + left + right)
            to_x = conv2d_input(size, kernel, gradient, *more)
            to_x = to_x[:, :, top : top + shape[2], left : left + shape[3]]
        return to_x.to(gradients[0].dtype), None, None
