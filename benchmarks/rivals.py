"""What one-bit nets and products are compared with: float nets in torch, and onnxruntime in float32 and 8 bits."""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import onebit
from benchmarks.shared import Call
from onebit.export.onnx import target

FLOOR = "torch"
HAS_ONNXRUNTIME = all(map(find_spec, ("onnx", "onnxruntime")))
CALIBRATION_BATCH = 32


def float_nets(net: nn.Module, x: Tensor) -> Iterator[tuple[str, Call]]:
    """(name, call): plain torch first, then BatchNorm folded, and frozen, in each memory format.

    A net that torch fails to freeze is left out.
    """
    forms = {FLOOR: net, "frozen": net}
    if onebit.layers.batch_norms(net):
        forms["folded"] = forms["frozen"] = fuse(net)
    convolves = any(parameter.dim() == 4 for parameter in net.parameters())
    for layout, suffix in ((torch.contiguous_format, ""), (torch.channels_last, ", channels_last"))[: 1 + convolves]:
        batch = x.contiguous(memory_format=layout)
        for name, form in forms.items():
            made: Any = copy.deepcopy(form).to(memory_format=layout)  # type: ignore[call-overload]
            made = frozen(made, batch) if name == "frozen" else made
            if made is not None:
                yield name + suffix, partial(made, batch)


def frozen(net: nn.Module, x: Tensor) -> Any:
    """The net with its weights prepacked for oneDNN; None if torch fails to freeze it."""
    with warnings.catch_warnings(), torch.no_grad(), suppress(RuntimeError, AttributeError):
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but only it prepacks weights without a compiler
        made = torch.jit.optimize_for_inference(torch.jit.trace(net, x))
        for _ in range(3):  # its first calls are slow
            made(x)
        return made
    return None


def session(model: str | bytes, threads: int) -> Any:
    """An InferenceSession on the CPU."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def exported(net: onebit.packed.PackedNet, flavor: str, threads: int) -> Callable[[Any], np.ndarray]:
    """A function from images to logits: the ONNX file of a net."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        target.write(net, path, flavor=flavor)
        made = session(str(path), threads)
    return lambda images: made.run(None, {"input": images})[0]


def quantized(net: onebit.packed.PackedNet, images: np.ndarray, threads: int) -> Callable[[Any], np.ndarray]:
    """A function from uint8 images to logits: the exact net in float32, quantized by onnxruntime.

    Static quantization with int8 weights, one scale per channel, and uint8 activations whose ranges are those of
    `images`, in operators that compute with 8 bits (`QOperator`).
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = iter(np.array_split(images, -(-len(images) // CALIBRATION_BATCH)))
    reader = SimpleNamespace(get_next=lambda: next(({"input": batch} for batch in batches), None))
    how: dict[str, Any] = {"quant_format": quantization.QuantFormat.QOperator, "per_channel": True}
    how |= {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, made = (str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        target.write(net, Path(plain), flavor="float")
        logging.disable(logging.WARNING)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints whole graphs
            quant_pre_process(plain, prepared)
            quantization.quantize_static(prepared, made, reader, **how)
        logging.disable(logging.NOTSET)
        int8 = session(made, threads)
    return lambda images: int8.run(None, {"input": images})[0]


Product = tuple[Call, Any, float]
"""Computes a product; what it must return, and the largest difference from that, as a share of the largest number."""


def float_products(layer: nn.Linear | nn.Conv2d, x: Tensor, tolerance: float) -> dict[str, Product]:
    """Ways in torch and onnxruntime to compute an nn.Linear or 3×3 nn.Conv2d without bias; plain torch first."""
    calls, weight, expected = dict(float_nets(layer, x)), layer.weight, layer(x)
    if isinstance(layer, nn.Linear):
        # private operations of torch, which not every build or processor has
        with suppress(RuntimeError, AttributeError, NotImplementedError):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
            call = partial(torch.ops.mkldnn._linear_pointwise, x, packed, None, "none", [], "")
            call()
            calls["oneDNN"] = call
    if HAS_ONNXRUNTIME:
        name = "Conv" if weight.ndim == 4 else "MatMul"
        calls["onnxruntime"] = _operation(name, x.numpy(), expected.numpy(), weight=weight.numpy())
    return {name: (call, expected, tolerance) for name, call in calls.items()}


def int8_products(layer: nn.Linear | nn.Conv2d, x: Tensor, zero: int) -> dict[str, Product]:
    """Ways in onnxruntime with uint8 inputs and int8 weights; none if it is not installed.

    The sums are int32. A second, much faster convolution returns 8 bits.

    Args:
        layer, x: of integers: weights from -128 to 127, inputs from -zero to 255 - zero.
        zero: added to the inputs, and subtracted again by the product.
    """
    if not HAS_ONNXRUNTIME:
        return {}
    sums, weight = layer(x).numpy(), layer.weight.numpy().astype(np.int8)
    inputs, point, one = (x.numpy() + np.float32(zero)).astype(np.uint8), np.uint8(zero), np.float32(1)
    name = "ConvInteger" if weight.ndim == 4 else "MatMulInteger"
    products = {name: (_operation(name, inputs, sums.astype(np.int32), weight=weight, zero=point), sums, 0.0)}
    if name == "ConvInteger":
        scale = np.float32(np.abs(sums).max() / 127)
        constants = {"x_scale": one, "zero": point, "weight": weight, "w_scale": one, "w_zero": np.int8(0)}
        constants |= {"scale": scale, "middle": np.uint8(128)}
        expected = sums / scale + 128
        call = _operation("QLinearConv", inputs, sums.astype(np.uint8), **constants)
        products["QLinearConv"] = (call, expected, 0.51 / float(expected.max()))
    return products


def _operation(name: str, x: np.ndarray, like: np.ndarray, **constants: Any) -> Call:
    """An operation of ONNX on x and constants, in this order, that writes one array again and again, like `like`."""
    import onnx.parser
    import onnxruntime

    y = np.empty_like(like)
    if constants["weight"].ndim == 2:
        constants["weight"] = np.ascontiguousarray(constants["weight"].T)
    else:
        name += " <pads = [1, 1, 1, 1]>"
    types = [f"{each.dtype.name.replace('float32', 'float')}{[*each.shape]}" for each in (x, y)]
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> '  # which every current onnxruntime knows
        f"product ({types[0]} x) => ({types[1]} y) {{ y = {name} ({', '.join(['x', *constants])}) }}"
    )
    for key, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), key))
    made = session(model.SerializeToString(), 1)
    binding = made.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y", "cpu", 0, y.dtype, y.shape, y.ctypes.data)

    def call() -> np.ndarray:
        made.run_with_iobinding(binding)
        return y

    return call
