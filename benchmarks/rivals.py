"""Products in float32 and in 8 bits that products with one-bit weights are compared with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sessions import onnxruntime_version, session
from benchmarks.twins import FLOOR, frozen

Call = Callable[[], Any]
"""Computes the product, a tensor or an array."""

_OPSET, _IR_VERSION = 13, 8  # of ONNX: old enough for every current onnxruntime


@dataclass(frozen=True, eq=False)
class Product:
    """x (N, K) · weightᵀ (K, O); or the 3×3 convolution of x (N, C, H, W) with (O, C, 3, 3), padded with zeros."""

    x: Tensor
    weight: Tensor
    convolves: bool

    def compute(self) -> Tensor:
        """In plain torch."""
        return F.conv2d(self.x, self.weight, padding=1) if self.convolves else F.linear(self.x, self.weight)

    def channels_last(self) -> Product:
        """The same convolution in the other memory format."""
        layout = torch.channels_last
        return Product(self.x.contiguous(memory_format=layout), self.weight.contiguous(memory_format=layout), True)

    def layer(self) -> nn.Module:
        outputs, inputs = self.weight.shape[:2]
        layer: nn.Module = nn.Linear(inputs, outputs, False)
        if self.convolves:
            layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        return layer.eval()


@dataclass(frozen=True, eq=False)
class Rival:
    """A way to compute a product.

    int8: whether the inputs have 8 bits. slack: the largest difference of its sums from those of plain torch. scale,
    zero: a call that returns 8 bits returns sum / scale + zero; others return sums.
    """

    name: str
    call: Call
    product: Product
    int8: bool = False
    slack: float = 0.0
    scale: float = 1.0
    zero: int = 0

    def sums(self, made: Any) -> np.ndarray:
        """The sums of the result of a call, as float64."""
        return (np.asarray(made, np.float64) - self.zero) * self.scale


def float_rivals(product: Product, *, slack: float) -> Iterator[Rival]:
    """Plain torch first, then other ways in torch and onnxruntime; those that torch fails to prepare are left out."""

    def rival(name: str, call: Call) -> Rival:
        return Rival(name, call, product, slack=slack)

    yield rival(FLOOR, product.compute)
    layouts = {"": product}
    if product.convolves:
        layouts[", channels_last"] = product.channels_last()
        yield rival(f"{FLOOR}, channels_last", layouts[", channels_last"].compute)
    else:
        # private operations of torch, which not every build or processor has
        with suppress(RuntimeError, AttributeError, NotImplementedError):
            yield rival("oneDNN", _prepacked(product))
    for name, laid_out in layouts.items():
        net = frozen(laid_out.layer(), laid_out.x)
        if net is not None:
            yield rival(f"frozen{name}", partial(net, laid_out.x))
    if onnxruntime_version() is not None:
        operation = "Conv" if product.convolves else "MatMul"
        x, weight = product.x.numpy(), product.weight.numpy()
        yield rival("onnxruntime", _session(operation, product, x, weight, np.float32))


def int8_rivals(product: Product, zero: int) -> Iterator[Rival]:
    """Products in onnxruntime with uint8 inputs and int8 weights; none if it is not installed.

    The sums are int32. A second, much faster convolution returns 8 bits.

    Args:
        product: of integers: weights from -128 to 127, inputs from -zero to 255 - zero.
        zero: added to the inputs, and subtracted again by the product.
    """
    if onnxruntime_version() is None:
        return
    x, weight = (product.x.numpy() + np.float32(zero)).astype(np.uint8), product.weight.numpy().astype(np.int8)
    zeros = {"zero": np.array(zero, np.uint8)}
    name = "ConvInteger" if product.convolves else "MatMulInteger"
    yield Rival(name, _session(name, product, x, weight, np.int32, **zeros), product, int8=True)
    if product.convolves:
        scale = np.float32(product.compute().abs().max() / 127)
        one, middle = np.array(1, np.float32), np.array(128, np.uint8)
        more = {"x_scale": one, **zeros, "w_scale": one, "w_zero": np.array(0, np.int8)}
        more |= {"scale": scale, "middle": middle}
        call = _session("QLinearConv", product, x, weight, np.uint8, **more)
        yield Rival("QLinearConv", call, product, int8=True, slack=0.51 * scale, scale=float(scale), zero=128)


_ORDERS = {"QLinearConv": ("x", "x_scale", "zero", "weight", "w_scale", "w_zero", "scale", "middle")}
"""Input names of ONNX operations whose first inputs are not x and the weights."""


def _session(
    operation: str,
    product: Product,
    x: np.ndarray,
    weight: np.ndarray,
    sums: type[np.generic],
    **constants: Any,
) -> Call:
    """A model of one operation with constants as further inputs, its input and output bound to memory."""
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    constants = {"weight": weight if product.convolves else np.ascontiguousarray(weight.T), **constants}
    made = np.empty(tuple(product.compute().shape), sums)
    options = {"pads": [1, 1, 1, 1]} if product.convolves else {}
    graph = helper.make_graph(
        [helper.make_node(operation, _ORDERS.get(operation, ("x", *constants)), ["y"], **options)],
        "product",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(made.dtype), made.shape)],
        [array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    made_of = session(model.SerializeToString(), 1)
    binding = made_of.io_binding()
    binding.bind_ortvalue_input("x", runtime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y", "cpu", 0, made.dtype, made.shape, made.ctypes.data)

    def call() -> np.ndarray:
        made_of.run_with_iobinding(binding)
        return made

    return call


def _prepacked(product: Product) -> Call:
    mkldnn, x = torch.ops.mkldnn, product.x
    weight = mkldnn._reorder_linear_weight(product.weight, len(x))

    def call() -> Tensor:
        return mkldnn._linear_pointwise(x, weight, None, "none", [], "")

    call()
    return call
