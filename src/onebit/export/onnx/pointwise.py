"""Signs, elementwise operations, and operations that move values, as ONNX nodes.

Each function returns the form in which its last node makes the value.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from onebit.export.onnx.exactness import zero_point
from onebit.export.onnx.graph import DTYPES, Graph
from onebit.packed import Node, Value, nodes
from onebit.packed.grid import FLOAT32_EXACT


def rising(node: Node, x: Value) -> tuple[np.ndarray, np.ndarray]:
    """(least, direction), (C,) int64 each, of a sign of integers: +direction where x >= least, else -direction.

    Numbers beyond all that x can be are moved next to these.
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


def write_sign(to: Graph, condition: str, direction: np.ndarray) -> str:
    """+direction where a condition is true, else -direction, in the form that the readers of the value want."""
    form, high, low = "float", direction, -direction
    if to.integers and to.of in to.uses.codes:
        form, high, low = "code", direction + 1, 1 - direction
    if (direction > 0).all():
        ends = [to.number(int(end.flat[0]), DTYPES[form]) for end in (high, low)]
    else:
        ends = [to.per_channel(end, what, DTYPES[form]) for end, what in ((high, "then"), (low, "else"))]
    to.add("Where", condition, *ends)
    return form


def write_threshold(to: Graph, node: nodes.Threshold | nodes.Sign) -> str:
    (source,), x = node.inputs, to.values[node.inputs[0]]
    natural = to.natural(source)
    # all other forms are of smaller integers
    form = natural if natural in ("int", "double") and not to.marks else "float"
    at: np.ndarray | None
    if x.exact:
        at, direction = rising(node, x)
        # an odd multiple of a half is between the integers, so the sign of either direction has no zero
        at, what = (at - 0.5, "middle") if to.marks else (at, "least")
    else:
        assert isinstance(node, nodes.Sign)
        at, direction, what = node.shift, np.ones(1, np.int64), "shift"
    tensor = to.get(source, form)
    if to.marks:
        if at is not None:
            tensor = to.add("Sub", tensor, to.per_channel(at, what, np.float32))
        if (direction < 0).any():
            tensor = to.add("Mul", tensor, to.per_channel(direction, "direction", np.float32))
        to.bipolar(tensor)
        return "float"
    # never ONNX's Sign, for which zero is zero
    least = to.number(0, np.float32) if at is None else to.per_channel(at, what, DTYPES[form])
    return write_sign(to, to.add("GreaterOrEqual", tensor, least), direction)


def write_affine(to: Graph, node: nodes.Affine) -> str:
    precise = to.of in to.precise
    tensor = to.get(node.inputs[0], "double" if precise else "float")
    for op, what, array in (("Mul", "scale", node.scale), ("Add", "shift", node.shift)):
        if array is not None:
            constant = to.per_channel(array, what)
            tensor = to.add(op, tensor, to.cast(constant, np.float64) if precise else constant)
    if precise:
        to.cast(tensor, np.float32)
    return "float"


def write_add(to: Graph, node: nodes.Add) -> str:
    made = to.values[to.of]
    wide = any(to.natural(source) in ("int", "double") for source in node.inputs) or (made.bound or 0) > FLOAT32_EXACT
    form = "int" if made.exact and wide else "float"
    a, b = (to.get(source, form) for source in node.inputs)
    if made.exact:
        to.add("Add", a, b)
    else:
        to.real("Add", a, b)
    return form


def write_multiply(to: Graph, node: nodes.Multiply) -> str:
    to.real("Mul", *(to.get(source, "float") for source in node.inputs))
    return "float"


def write_prelu(to: Graph, node: nodes.Prelu) -> str:
    slope = to.per_channel(node.slope, "slope")
    to.add("PRelu", to.get(node.inputs[0], "float"), slope)
    return "float"


def write_bounded(to: Graph, node: nodes.Bounded) -> str:
    (source,) = node.inputs
    form = "int" if to.values[to.of].exact and to.natural(source) in ("int", "double") else "float"
    if isinstance(node, nodes.Relu) and form == "float":
        to.add("Relu", to.get(source, form))
        return form
    ends = []
    for what, bound in zip(("low", "high"), node.bounds, strict=True):
        if what in node.stored:
            ends.append(to.constant(node.stored[what][0], f"{to.of}/{what}"))
        else:
            ends.append(to.number(bound, DTYPES[form]) if abs(bound) < inf else "")
    to.add("Clip", to.get(source, form), *ends[: 2 if ends[1] else 1])
    return form


def common_form(to: Graph, node: nodes.Concat | nodes.Pad) -> str:
    """The form in which an operation reads all of its inputs; codes of all values have one zero point."""
    form, *others = {to.natural(source) for source in node.inputs}
    made = to.values[to.of]
    if others or form == "raw" or not made.exact:
        form = "float"
    if form == "code" and len({zero_point(to.values[name]) for name in (to.of, *node.inputs)}) > 1:
        form = "float"
    return "int" if form == "float" and made.exact and (made.bound or 0) > FLOAT32_EXACT else form


def write_concat(to: Graph, node: nodes.Concat) -> str:
    form = common_form(to, node)
    to.add("Concat", *(to.get(source, form) for source in node.inputs), axis=1)
    return form


def write_pad(to: Graph, node: nodes.Pad) -> str:
    (source,), form = node.inputs, common_form(to, node)
    border = to.number(node.value + zero_point(to.values[source]) if form == "code" else node.value, DTYPES[form])
    (before, after), (top, bottom, left, right) = node.channels, node.padding
    sizes = to.shape(0, before, top, left, 0, after, bottom, right)
    to.add("Pad", to.get(source, form), sizes, border)
    return form


def write_slice(to: Graph, node: nodes.Slice) -> str:
    return move(to, node, "Slice", *(to.shape(*sizes) for sizes in (node.start, node.stop, (1, 2, 3), node.step)))


def write_repeat(to: Graph, node: nodes.Repeat) -> str:
    """An axis of 1 behind each axis that is repeated, expanded and joined with it."""
    (source,) = node.inputs
    form, shape = to.natural(source), to.values[source].shape
    pairs = [(size, *[times] * (times > 1)) for size, times in zip(shape, node.times, strict=True)]
    apart, wide = [n for size, *times in pairs for n in (size, *[1] * len(times))], [n for pair in pairs for n in pair]
    tensor = to.add("Reshape", to.get(source, form), to.shape(-1, *apart))
    tensor = to.add("Expand", tensor, to.shape(1, *wide))
    to.add("Reshape", tensor, to.shape(-1, *to.values[to.of].shape))
    return form


def move(to: Graph, node: Node, op: str, *constants: str, **attributes: Any) -> str:
    """An operation of ONNX that moves numbers of any form."""
    (source,) = node.inputs
    form = to.natural(source)
    to.add(op, to.get(source, form), *constants, **attributes)
    return form
