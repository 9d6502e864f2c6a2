"""Single products with one-bit weights, on each instruction set, against the same products in float32 and 8 bits.

A case is a layer with ±1 inputs ("xnor"), real inputs ("weights"), real inputs as after a ReLU ("relu"), a uint8 image
("first") or the bytes of an integer net ("integer"). The timed call is the one that whole nets run, on one thread. With
real inputs it includes rounding them to a grid; with ±1 inputs it does not include taking their signs, which the
previous layer does. Sums are written as float products write theirs.

"torch" is nn.Linear or nn.Conv2d with the ±1 weights in float32. The best of float32 is the fastest of that,
channels_last, weights prepacked for oneDNN, and onnxruntime. int8 is the fastest of onnxruntime's MatMulInteger, or
ConvInteger and QLinearConv, on quantized inputs.

Before anything is timed, the logits of the whole plan are compared bit for bit with those of the reference executor,
and the result of each call with plain torch's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import onebit
from benchmarks.nets import FLOOR, HAS_ONNXRUNTIME, float_nets, session
from benchmarks.shared import CLOCK, Call, Clock, Rows, compare, rows

abi, packed = onebit.native.abi, onebit.packed

KINDS = {
    "xnor": "±1 × ±1",
    "weights": "±1 × real",
    "relu": "±1 × real, not negative",
    "first": "±1 × pixels",
    "integer": "±1 × uint8",
}
"""Weights × inputs; pixels are coded as 2x − 255."""
REAL = ("weights", "relu")
Sizes = tuple[int, ...]
FEW, MANY = (1, 32), (1, 8, 64, 256)
IMAGES: dict[Sizes, Sizes] = {(16, 16, 32, 32): FEW, (32, 32, 16, 16): FEW, (64, 64, 8, 8): FEW}
LAYERS: dict[str, dict[Sizes, Sizes]] = {
    "xnor": {(4096, 4096): (1, 64, 256), (128, 128, 32, 32): FEW, (256, 256, 14, 14): FEW},
    "weights": {(4096, 4096): MANY, (2048, 2048): MANY, **IMAGES},
    "relu": {(4096, 4096): (64, 256), (2048, 2048): (64, 256), **IMAGES, (128, 128, 16, 16): FEW},
    "first": {(784, 2048): (1, 256), (3072, 1024): (64,), (3, 64, 32, 32): FEW},
    "integer": {(4096, 4096): MANY, (2048, 2048): MANY, **IMAGES, (128, 128, 16, 16): FEW},
}
"""Kind -> (inputs, outputs) of dense layers, with (height, width) of 3×3 convolutions -> the batches that are timed."""
COLUMNS = {"product": "", "batch": "d", "variant": "", "us": ",.1f", "fastest_us": ",.1f", "torch_us": ",.1f"}
COLUMNS |= {"torch_speedup": ".2f", "best_speedup": ".2f", "best": "", "int8_speedup": ".2f"}
UNIT = np.float32(1 / 148)  # about the standard deviation of a coded pixel, and not a power of two
ROUNDING = 1e-4  # of the largest sum: the difference that another order of additions makes in float32


class Layer:
    """A product with random signs and a batch of images; convolutions are padded with zeros.

    Attributes:
        packed: the net: the nodes that make the inputs of the product, and the product. images: (N, C, H, W) uint8.
        layer, x: the same product in float32. int8, zero: 8-bit inputs, see `int8_products`.
        sums: (N, units) in NHWC order, the result of plain torch; tolerance: of other sums, 0 if all are integers.
    """

    def __init__(self, kind: str, inputs: int, outputs: int, *image: int, batch: int) -> None:
        sizes = f"{inputs} → {outputs}"
        self.name = f"{KINDS[kind]}, " + (f"3×3, {sizes}, {image[0]}×{image[1]}" if image else f"dense {sizes}")
        rng, self.tolerance = np.random.default_rng(0), ROUNDING * (kind in REAL)
        signs = rng.choice(np.array([-1, 1], np.int8), (outputs, inputs * (9 if image else 1)))
        self.images = rng.integers(0, 256, (batch, inputs, *(image or (1, 1))), dtype=np.uint8)
        weight = torch.from_numpy(signs.astype(np.float32))
        self.layer: nn.Linear | nn.Conv2d = nn.Linear(inputs, outputs, bias=False)
        if image:
            self.layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            weight = weight.reshape(outputs, 3, 3, inputs).permute(0, 3, 1, 2).contiguous()
        self.layer.weight = nn.Parameter(weight, requires_grad=False)
        x = self.images.astype(np.float32).reshape(batch, inputs, *image)
        int8, self.zero = x, 0
        if kind != "integer":
            x = x * 2 - 255
        nodes: list[packed.Node] = []

        def add(node: type[packed.Node], *values: str, **fields: Any) -> str:
            last = nodes[-1].output if nodes else "input"
            nodes.append(node(inputs=values or (last,), output=f"value{len(nodes)}", **fields))
            return nodes[-1].output

        if not image:
            add(packed.Flatten)
        if kind == "xnor":
            add(packed.Threshold, threshold=np.zeros(inputs, np.int32), direction=np.ones(inputs, np.int8))
            x = int8 = np.sign(x)  # coded pixels are odd
            self.zero = 1
        elif kind in REAL:
            add(packed.Affine, scale=np.full(inputs, UNIT))
            x = x * np.float64(UNIT)
            int8, self.zero = np.round(x / (np.abs(x).max() / 127)), 128
            if kind == "relu":
                add(packed.Relu)
                x = np.maximum(x, 0)
                int8, self.zero = np.round(x / (x.max() / 255)), 0
        product: type[packed.OneBitWeights] = packed.Conv if image else packed.Dense
        bits: dict[str, Any] = {"signs": packed.bits.pack_signs(signs), "in_features": signs.shape[1]}
        sums = add(product, **bits, **({"kernel": (3, 3), "padding": (1, 1, 1, 1)} if image else {}))
        if kind in REAL:  # reads the inputs after the product, so that they stay in memory and it can run again
            add(packed.Concat, sums, nodes[-2].output)
        spec = packed.InputSpec(shape=self.images.shape[1:], coding="values" if kind == "integer" else "integer")
        self.packed = packed.PackedNet(inputs={"input": spec}, nodes=tuple(nodes), output=nodes[-1].output)
        self.x, self.int8 = (torch.from_numpy(values.astype(np.float32)) for values in (x, int8))
        self.sums = np.moveaxis(self.layer(self.x).numpy(), 1, -1).reshape(batch, -1)


def product_alone(plan: onebit.native.NativePlan, images: np.ndarray) -> Call:
    """A function that runs only the call of a plan that multiplies by weights, with the rounding of its real inputs.

    The calls before it run once, now, to leave its inputs in memory, which the product may not overwrite. Its sums,
    (images of a batch, units) int32 in NHWC order, or the bits of float32, are a view that the next call overwrites.
    """
    (product,) = (index for index, call in enumerate(plan.kept[0]) if call.weights)
    first = product - (product > 0 and plan.kernels[product - 1] == "grid")
    arena, memory = onebit.native.arena.aligned(plan.plan.arena_units)
    count, last = min(len(images), plan.plan.batch), plan.kept[0][product]
    before, part = (abi.PlanStruct.from_buffer_copy(plan.plan) for _ in range(2))
    before.call_count, part.call_count = first, product + 1 - first
    part.calls += first * ctypes.sizeof(abi.CallStruct)
    before.output_count = part.output_count = 0  # no output is copied,
    part.input_count = 0  # and no image is coded, so their addresses do not matter
    plan.isa.run(ctypes.byref(before), images.ctypes.data, count, memory, memory, 0, 1, None)
    sums = arena[last.out : last.out + count * last.out_size].view(np.int32).reshape(count, -1)
    arguments = (ctypes.byref(part), memory, len(images), memory, memory, 0, 1, None)

    def run_product() -> np.ndarray:
        plan.isa.run(*arguments)  # the plan holds the weights
        return sums

    return run_product


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


def measure(*, kinds: Sequence[str] = tuple(LAYERS), isa: Sequence[str] = (), clock: Clock = CLOCK) -> Rows:
    """Rows of product, batch, instruction set, µs, and speed-ups over plain torch, the best of float32, and int8.

    Args:
        kinds: of products
        isa: instruction sets, as avx2,avx512; by default all of this machine
    """
    known = onebit.native.instruction_sets()
    isas = {name: known[name] for name in isa or known}
    for kind in kinds:
        for sizes, batches in LAYERS[kind].items():
            for batch in batches:
                yield from time_layer(kind, sizes, batch, isas, clock)


@torch.inference_mode()
def time_layer(kind: str, sizes: Sizes, batch: int, isas: Mapping[str, Any], clock: Clock) -> Rows:
    """Rows of a layer, one for each instruction set; OnebitError for sums that rounding does not explain."""
    layer, calls = Layer(kind, *sizes, batch=batch), dict[str, Call]()
    facts = {"product": layer.name, "batch": batch}
    check = onebit.runtime.timing.against_reference(layer.packed, layer.images)
    for name, isa in isas.items():
        plan = onebit.native.make_plan(layer.packed, isa)
        check(f"{facts}, {name}", plan.run(layer.images)[0])
        calls[name] = product_alone(plan, layer.images)
        for _ in range(2):  # a call must not overwrite its inputs
            sums = calls[name]().view(np.float32 if layer.tolerance else np.int32)
            compare(f"{facts}, {name}", sums, layer.sums[: len(sums)], layer.tolerance)
    floats = float_products(layer.layer, layer.x, layer.tolerance)
    int8 = int8_products(layer.layer, layer.int8, layer.zero)
    for name, (call, expected, tolerance) in (floats | int8).items():
        compare(f"{facts}, {name}", call(), expected, tolerance)
        calls[name] = call
    for row in rows(clock.time(calls), isas, torch=[FLOOR], best=floats, int8=int8):
        yield {**facts, **row}
