"""Signs, elementwise operations, and operations that move values, as ONNX nodes.

Each function returns the form in which its last node makes the value.
"""

from __future__ import annotations

from math import inf, pi, sqrt
from typing import Any

import numpy as np

from onebit.export.onnx.exactness import zero_point
from onebit.export.onnx.graph import DTYPES, Graph
from onebit.packed import Node, Value, nodes
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import op_name

_END = 2**31  # of any axis


def rising(node: Node, x: Value) -> tuple[np.ndarray, np.ndarray]:
    """(least, direction), (C,) int64 each, of a sign of integers: +direction where x >= least, else -direction.

    `least` is clipped to the range of x, or one above it.
    """
    assert x.bound is not None
    if isinstance(node, nodes.Threshold):
        direction = node.direction.astype(np.int64)
        least = node.threshold.astype(np.int64) + (direction < 0)  # x <= threshold is not x >= threshold + 1
    else:
        assert isinstance(node, nodes.Sign)
        shift = np.zeros(x.shape[:1]) if node.shift is None else node.shift
        least = np.clip(np.ceil(shift.astype(np.float64)), -x.bound, x.bound + 1).astype(np.int64)
        direction = np.ones_like(least)
    return np.clip(least, -x.bound, x.bound + 1), direction


def write_sign(graph: Graph, condition: str, direction: np.ndarray) -> str:
    """+direction where a condition is true, else -direction, in the form that the readers of the value need."""
    form, high, low = "float", direction, -direction
    if graph.integers and graph.current in graph.uses.codes:
        form, high, low = "code", direction + 1, 1 - direction
    if (direction > 0).all():
        ends = [graph.number(int(end.flat[0]), DTYPES[form]) for end in (high, low)]
    else:
        ends = [graph.per_channel(end, what, DTYPES[form]) for end, what in ((high, "then"), (low, "else"))]
    graph.add("Where", condition, *ends)
    return form


def write_threshold(graph: Graph, node: nodes.Threshold | nodes.Sign) -> str:
    (source,), x = node.inputs, graph.values[node.inputs[0]]
    natural = graph.natural(source)
    # all other forms hold smaller integers
    form = natural if natural in ("int", "double") and not graph.marks else "float"
    at: np.ndarray | None
    if x.exact:
        at, direction = rising(node, x)
        # a threshold halfway between integers: no difference is zero, so the sign may be flipped
        at, what = (at - 0.5, "middle") if graph.marks else (at, "least")
    else:
        assert isinstance(node, nodes.Sign)
        at, direction, what = node.shift, np.ones(1, np.int64), "shift"
    tensor = graph.get(source, form)
    if graph.marks:
        if at is not None:
            tensor = graph.add("Sub", tensor, graph.per_channel(at, what, np.float32))
        if (direction < 0).any():
            tensor = graph.add("Mul", tensor, graph.per_channel(direction, "direction", np.float32))
        graph.bipolar(tensor)
        return "float"
    # not ONNX's Sign, which is 0 for 0
    least = graph.number(0, np.float32) if at is None else graph.per_channel(at, what, DTYPES[form])
    return write_sign(graph, graph.add("GreaterOrEqual", tensor, least), direction)


def write_affine(graph: Graph, node: nodes.Affine) -> str:
    precise = graph.current in graph.precise
    tensor = graph.get(node.inputs[0], "double" if precise else "float")
    for op, what, array in (("Mul", "scale", node.scale), ("Add", "shift", node.shift)):
        if array is not None:
            constant = graph.per_channel(array, what)
            tensor = graph.add(op, tensor, graph.cast(constant, np.float64) if precise else constant)
    if precise:
        graph.cast(tensor, np.float32)
    return "float"


def write_add(graph: Graph, node: nodes.Add) -> str:
    made = graph.values[graph.current]
    wide = (
        any(graph.natural(source) in ("int", "double") for source in node.inputs) or (made.bound or 0) > FLOAT32_EXACT
    )
    form = "int" if made.exact and wide else "float"
    a, b = (graph.get(source, form) for source in node.inputs)
    if made.exact:
        graph.add("Add", a, b)
    else:
        graph.real("Add", a, b)
    return form


def write_multiply(graph: Graph, node: nodes.Multiply) -> str:
    graph.real("Mul", *(graph.get(source, "float") for source in node.inputs))
    return "float"


def write_prelu(graph: Graph, node: nodes.Prelu) -> str:
    slope = graph.per_channel(node.slope, "slope")
    graph.add("PRelu", graph.get(node.inputs[0], "float"), slope)
    return "float"


def write_activation(graph: Graph, node: nodes.Activation) -> str:
    x = graph.get(node.inputs[0], "float")
    if node.zero_below > -inf:
        below = graph.add("Less", x, graph.number(node.zero_below, np.float32))
        x = graph.add("Where", below, graph.number(0, np.float32), x)

    def scaled(tensor: str, by: float) -> str:
        return graph.add("Mul", tensor, graph.number(by, np.float32))

    def times(factor: str, value: str) -> None:
        """The product; the first factor, a share that onnxruntime may round to 0, stays positive: the sign is x's."""
        graph.add("Mul", graph.add("Max", factor, graph.number(2.0**-100, np.float32)), value)

    def gate_of(tensor: str) -> None:
        """(tensor + 1) · x / 2."""
        times(graph.add("Add", tensor, graph.number(1, np.float32)), scaled(x, 0.5))

    match op_name(node):
        case "sigmoid":
            graph.add("Sigmoid", x)
        case "tanh":
            graph.add("Tanh", x)
        case "sqrt":
            graph.add("Sqrt", x)
        case "reciprocal":
            graph.add("Reciprocal", x)
        case "silu":
            times(graph.add("Sigmoid", x), x)
        case "mish":
            times(graph.add("Tanh", graph.add("Softplus", x)), x)
        case "hardswish":
            graph.add("Mul", x, graph.add("HardSigmoid", x, alpha=1 / 6))
        case "gelu":
            gate_of(graph.add("Erf", scaled(x, sqrt(0.5))))
        case "gelu_tanh":
            cube = graph.add("Mul", graph.add("Mul", x, x), scaled(x, 0.044715))
            gate_of(graph.add("Tanh", scaled(graph.add("Add", x, cube), sqrt(2 / pi))))
    return "float"


def write_bounded(graph: Graph, node: nodes.Bounded) -> str:
    (source,) = node.inputs
    form = "int" if graph.values[graph.current].exact and graph.natural(source) in ("int", "double") else "float"
    if isinstance(node, nodes.Relu) and form == "float":
        graph.add("Relu", graph.get(source, form))
        return form
    ends = [graph.number(bound, DTYPES[form]) if abs(bound) < inf else "" for bound in node.bounds]
    graph.add("Clip", graph.get(source, form), *ends[: 2 if ends[1] else 1])
    return form


def common_form(graph: Graph, node: nodes.Concat | nodes.Pad) -> str:
    """The form in which an operation reads all of its inputs; codes only if all zero points are equal."""
    form, *others = {graph.natural(source) for source in node.inputs}
    made = graph.values[graph.current]
    if others or form == "raw" or not made.exact:
        form = "float"
    if form == "code" and len({zero_point(graph.values[name]) for name in (graph.current, *node.inputs)}) > 1:
        form = "float"
    return "int" if form == "float" and made.exact and (made.bound or 0) > FLOAT32_EXACT else form


def write_concat(graph: Graph, node: nodes.Concat) -> str:
    form = common_form(graph, node)
    graph.add("Concat", *(graph.get(source, form) for source in node.inputs), axis=1)
    return form


def write_pad(graph: Graph, node: nodes.Pad) -> str:
    (source,), form = node.inputs, common_form(graph, node)
    border = node.value + zero_point(graph.values[source]) if form == "code" else node.value
    graph.padded(graph.get(source, form), node.padding, border, DTYPES[form], node.channels)
    return form


def write_slice(graph: Graph, node: nodes.Slice) -> str:
    stop = node.stop
    if graph.free:  # ends count from the end of the axes
        shape = graph.values[node.inputs[0]].shape
        stop = tuple(end - size or _END for end, size in zip(stop, shape, strict=True))  # type: ignore[assignment]
    return move(graph, node, "Slice", *(graph.shape(*sizes) for sizes in (node.start, stop, (1, 2, 3), node.step)))


def write_take(graph: Graph, node: nodes.Take) -> str:
    indices = graph.constant(node.indices, f"{graph.current}/indices", np.int64)
    return move(graph, node, "Gather", indices, axis=node.axis + 1)


def write_repeat(graph: Graph, node: nodes.Repeat) -> str:
    """Insert an axis of 1 after each axis, expand it, and merge it with the axis before it."""
    (source,) = node.inputs
    form, shape = graph.natural(source), graph.values[source].shape
    if graph.free and len(shape) == 3:
        scales = graph.constant(np.array([1, *node.times]), f"{graph.current}/times", np.float32)
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        graph.add("Resize", graph.get(source, form), "", scales, **modes)
        return form
    apart = [n for size in shape for n in (size, 1)]
    wide = [n for pair in zip(shape, node.times, strict=True) for n in pair]
    tensor = graph.add("Reshape", graph.get(source, form), graph.shape(-1, *apart))
    tensor = graph.add("Expand", tensor, graph.shape(1, *wide))
    graph.add("Reshape", tensor, graph.shape(-1, *graph.values[graph.current].shape))
    return form


def move(graph: Graph, node: Node, op: str, *constants: str, **attributes: Any) -> str:
    """Write an ONNX operation that moves numbers of any form."""
    (source,) = node.inputs
    form = graph.natural(source)
    graph.add(op, graph.get(source, form), *constants, **attributes)
    return form
