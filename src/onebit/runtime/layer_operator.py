"""The operators `torch.ops.onebit.packed_linear` and `packed_conv`: products with one-bit weights."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.grad import conv2d_input

from onebit.common.torch_private import in_forward_mode, is_watched
from onebit.errors import UsageError
from onebit.native import instruction_set
from onebit.native.layer_call import WORD, LayerCall, dense_call, file_rows, kernel_word_count, panel_spans, window_call
from onebit.packed import Conv, ConvTranspose, Dense, Value
from onebit.packed.bits import bytes_to_words
from onebit.runtime.executors import executor_of
from onebit.runtime.running import thread_count


class PackedWindow(NamedTuple):
    """How a (transposed) convolution slides over an image, as `onebit.packed.Conv` and `ConvTranspose` have it.

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
        """All fields, one after the other: what the operator takes."""
        more = self.groups, *self.stride, *self.padding, *self.dilation, *self.extra
        return [*self.kernel, *more, self.padding_value, int(self.transposed)]

    @classmethod
    def of(cls, numbers: Any) -> PackedWindow:
        """The inverse of `numbers`."""
        kh, kw, groups, sh, sw, top, bottom, left, right, dh, dw, down, across, value, transposed = numbers
        padding = (top, bottom, left, right)
        return cls((kh, kw), groups, (sh, sw), padding, (dh, dw), (down, across), value, bool(transposed))

    def made(self, height: Any, width: Any) -> tuple[Any, Any]:
        """(H', W') of an image (H, W)."""
        before, sizes = (self.padding[:2], self.padding[2:]), []
        for axis, size in enumerate((height, width)):
            span = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            if self.transposed:
                sizes.append((size - 1) * self.stride[axis] + span + self.extra[axis] - sum(before[axis]))
            else:
                sizes.append((size + sum(before[axis]) - span) // self.stride[axis] + 1)
        return sizes[0], sizes[1]


def linear(
    x: Tensor,
    words: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    bias: Tensor | None,
    outputs: int,
    signs: bool,
) -> Tensor:
    """(…, K) -> (…, O). words: see `onebit.native.layer_call.kernel_words`. signs: take the signs of the values."""
    inputs = x.shape[-1] if x.dim() else 0
    if inputs < 1 or kernel_word_count(outputs, inputs) != words.numel():
        raise _wrong_inputs(x, words, outputs)
    isa, given = instruction_set(), (words, scale, center, bias)
    _check_given(given, outputs)
    out = _empty(x, (*x.shape[:-1], outputs))
    count = x.numel() // inputs
    if isa is None:
        node = _node(Dense, words, outputs, inputs, scale, center)
        return _reference(node, x.reshape(count, inputs), (inputs,), bias, signs).reshape(out.shape).to(x.dtype)
    return _call(dense_call(isa.name, outputs, inputs, signs), x, count, given, out)


def _conv(
    x: Tensor,
    words: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    bias: Tensor | None,
    outputs: int,
    window: list[int],
    signs: bool,
) -> Tensor:
    """(N, I, H, W) -> (N, O, H', W'). window: see `PackedWindow.numbers`."""
    how, shape = PackedWindow.of(window), tuple(x.shape[1:])
    isa, given = instruction_set(), (words, scale, center, bias)
    _check_given(given, outputs)
    made = (outputs, *_made(how, x))
    terms = shape[0] // how.groups * how.kernel[0] * how.kernel[1]
    if kernel_word_count(outputs, terms) != words.numel() or shape[0] % how.groups:
        raise UsageError(f"got images {tuple(x.shape)}, expected as many channels as the weights have")
    out = _empty(x, (x.shape[0], *made))
    if isa is None:
        node = _node(_kind(how), words, outputs, terms, scale, center, **_fields(how))
        return _reference(node, x, shape, bias, signs).to(x.dtype)
    call = _window_call(isa.name, how, outputs, terms, shape, signs)
    return _call(call, x, x.shape[0], given, out)


def _call(call: LayerCall, x: Tensor, count: int, given: tuple[Tensor | None, ...], out: Tensor) -> Tensor:
    """Run the library; the answer has the dtype of `x`."""
    values = _values(x)
    threads = thread_count() if os.environ.get("ONEBIT_THREADS") else torch.get_num_threads()
    if count:
        addresses = tuple(None if part is None else part.data_ptr() for part in given)
        call.run(values.data_ptr(), count, addresses, out.data_ptr(), threads, keep=(values, given, out))
    return out if x.dtype is torch.float32 else out.to(x.dtype)


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Float32 memory; to name the dtype takes longer."""
    return x.new_empty(shape) if x.dtype is torch.float32 else x.new_empty(shape, dtype=torch.float32)


def _check_given(given: tuple[Tensor | None, ...], outputs: int) -> None:
    """Check words, scale, center and bias, which the library reads without a check."""
    words, *parameters = given
    assert words is not None
    for part in (words, *parameters):
        dtype, shape = (torch.int32, words.shape) if part is words else (torch.float32, (outputs,))
        if part is None or (part.dtype is dtype and part.is_cpu and part.shape == shape and part.is_contiguous()):
            continue
        raise UsageError(f"got {_kind_of(part)} of a packed layer, expected {dtype} {tuple(shape)} on cpu")


def _values(x: Tensor) -> Tensor:
    """Contiguous float32 values on the CPU."""
    if x.dtype is torch.float32 and x.is_cpu and x.is_contiguous():
        return x
    _check(x)
    return x.to(torch.float32).contiguous()


def _check(x: Tensor) -> None:
    if x.device.type not in ("cpu", "meta") or not x.is_floating_point():
        raise UsageError(f"got a tensor of {_kind_of(x)}, expected floating point on the CPU, where packed layers run")


def _kind_of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"


def _wrong_inputs(x: Tensor, words: Tensor, outputs: int) -> UsageError:
    most = (words.numel() - kernel_word_count(outputs, 0)) // max(1, outputs) * WORD
    return UsageError(
        f"got a tensor of shape {tuple(x.shape)}, expected {most - WORD + 1} to {most} inputs on the last axis"
    )


def _made(how: PackedWindow, x: Tensor) -> tuple[Any, Any]:
    height, width = how.made(x.shape[2], x.shape[3]) if x.dim() == 4 else (0, 0)
    if height < 1 or width < 1:
        raise UsageError(f"got {tuple(x.shape)}, expected images (N, C, H, W) that a kernel of {how.kernel} fits")
    return height, width


# the numpy executors, which define the results


def _kind(how: PackedWindow) -> type[Conv] | type[ConvTranspose]:
    return ConvTranspose if how.transposed else Conv


def _fields(how: PackedWindow) -> dict[str, Any]:
    fields = {"kernel": how.kernel, "groups": how.groups, "stride": how.stride, "padding": how.padding}
    more: dict[str, Any] = {"extra": how.extra} if how.transposed else {"padding_value": how.padding_value}
    return {**fields, "dilation": how.dilation, **more}


def _node(
    kind: Any, words: Tensor, outputs: int, terms: int, scale: Tensor | None, center: Tensor | None, **more: Any
) -> Any:
    rows = file_rows(words.numpy().view(np.uint32), more.get("groups", 1), outputs, terms)
    scales = {"scale": None if scale is None else scale.numpy(), "centre": None if center is None else center.numpy()}
    return kind(inputs=("x",), output="y", signs=bytes_to_words(rows, terms), in_features=terms, **scales, **more)


def _reference(node: Any, x: Tensor, shape: tuple[int, ...], bias: Tensor | None, signs: bool) -> Tensor:
    values = _values(x).numpy()
    if signs:
        values = np.where(values < 0, np.int8(-1), np.int8(1))
    value = Value(shape, "sign", 1) if signs else Value(shape, "real")
    with np.errstate(over="ignore", invalid="ignore"):
        made = executor_of(node, value)(values).astype(np.float32)
        if bias is not None:
            made = made + bias.numpy().reshape(-1, *[1] * (made.ndim - 2))
    return torch.from_numpy(made)


@lru_cache(maxsize=256)
def _window_call(
    isa: str, how: PackedWindow, outputs: int, terms: int, shape: tuple[int, int, int], signs: bool
) -> LayerCall:
    node = _kind(how)(
        inputs=("x",),
        output="y",
        signs=np.zeros((outputs, -(-terms // 64)), np.uint64),
        in_features=terms,
        **_fields(how),
    )
    return window_call(isa, node, shape, signs)


# what tracing sees


def _trace_linear(
    x: Tensor,
    words: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    bias: Tensor | None,
    outputs: int,
    signs: bool,
) -> Tensor:
    _check(x)
    return x.new_empty((*x.shape[:-1], outputs))


def _trace_conv(
    x: Tensor,
    words: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    bias: Tensor | None,
    outputs: int,
    window: list[int],
    signs: bool,
) -> Tensor:
    _check(x)
    how = PackedWindow.of(window)
    return x.new_empty((x.shape[0], outputs, *how.made(x.shape[2], x.shape[3])))


_LIBRARY = torch.library.Library("onebit", "FRAGMENT")
_GIVEN = "Tensor x, Tensor words, Tensor? scale, Tensor? center, Tensor? bias, int outputs"
for _name, _more, _run, _trace in (
    ("packed_linear", "", linear, _trace_linear),
    ("packed_conv", ", int[] window", _conv, _trace_conv),
):
    _LIBRARY.define(f"{_name}({_GIVEN}{_more}, bool signs) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")  # for every device, to raise a clear error
    torch.library.register_fake(f"onebit::{_name}", _trace, lib=_LIBRARY)
packed_linear: Any = torch.ops.onebit.packed_linear.default
packed_conv: Any = torch.ops.onebit.packed_conv.default


# without the dispatcher


def is_unwatched(x: Tensor) -> bool:
    """Whether this is plain inference: nothing traces, transforms or records operators, or follows their gradients.

    The function of an operator may then be called instead, which takes less time than the dispatcher of torch.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor or not torch.is_inference_mode_enabled():
        return False
    return not is_watched()


# gradients of inputs


def follows_gradient(x: Tensor) -> bool:
    """Whether autograd follows these inputs. A trace has no gradient: it cannot hold functions of Python."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.jit.is_tracing()


def refuse_tangent(x: Tensor, what: str) -> None:
    """Raise a UsageError for inputs of `torch.func.jvp` and its like: operators would give tangents of 0 in silence."""
    if in_forward_mode() and forward_ad.unpack_dual(x).tangent is not None:
        raise UsageError(f"{what} have no forward-mode derivatives: use the model before it was packed")


def dense_signs(words: Tensor, groups: int, outputs: int, terms: int) -> Tensor:
    """(O, K) float32 of ±1: the signs in `words`."""
    count = 4 * -(-terms // WORD)
    panels = words.view(torch.uint8)[: outputs * count].view(groups, -1, count)
    parts = [panels[:, span].reshape(groups, count, -1).transpose(1, 2) for span in panel_spans(outputs // groups)]
    rows = torch.cat(parts, dim=1).reshape(outputs, count, 1).int()
    bits = rows >> torch.arange(8, dtype=torch.int32, device=words.device) & 1
    return (bits.reshape(outputs, -1)[:, :terms] * 2 - 1).float()


class _Differentiable(torch.autograd.Function):
    """The operator, with the gradient of the dense layer for its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, window: PackedWindow | None) -> Tensor:
        ctx.save_for_backward(layer.words, layer.scale, layer.center)
        ctx.given = layer.groups, layer.outputs, layer.terms, window, x.shape
        shared = layer.words, layer.scale, layer.center, layer.bias, layer.outputs
        if window is None:
            return packed_linear(x, *shared, layer.signs)
        return packed_conv(x, *shared, window.numbers, layer.signs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        words, scale, center = ctx.saved_tensors
        groups, outputs, terms, window, shape = ctx.given
        weight = dense_signs(words, groups, outputs, terms)
        if scale is not None:
            weight = weight * scale.view(-1, 1)
        if center is not None:
            weight = weight + center.view(-1, 1)
        gradient = gradients[0].float()
        if window is None:
            return (gradient @ weight).to(gradients[0].dtype), None, None
        kernel = weight.view(outputs, *window.kernel, -1).permute(0, 3, 1, 2)
        top, bottom, left, right = window.padding
        if window.transposed:  # the adjoint of a transposed convolution is a convolution
            kernel = kernel.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
            padded = F.pad(gradient, (left, right, top, bottom))
            made = F.conv2d(padded, kernel, None, window.stride, 0, window.dilation, groups)
            made = made[:, :, : shape[2], : shape[3]]
        else:
            size = (shape[0], shape[1], shape[2] + top + bottom, shape[3] + left + right)
            made = conv2d_input(size, kernel, gradient, window.stride, 0, window.dilation, groups)
            made = made[:, :, top : top + shape[2], left : left + shape[3]]
        return made.to(gradients[0].dtype), None, None


def use_dense(layer: Any, x: Tensor, window: PackedWindow | None) -> Tensor:
    """The outputs of a packed layer, with the gradient of the dense layer for `x`."""
    made: Tensor = _Differentiable.apply(x, layer, window)
    return made
