"""Signs, elementwise operations, and operations that move values, as ONNX nodes."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from onebit.export.onnx.exactness import zero_point
from onebit.export.onnx.values import DTYPES, Values
from onebit.packed import Node, Value, nodes
from onebit.packed.grid import FLOAT32_EXACT


def real(to: Values, op: str, a: str, b: str, *, of: str, last: bool = False) -> str:
    """Append an operation of two float32 tensors for the value `of`, which is that value if it is the `last` one.

    In float64 where bits matter. The rounded result is the same, but onnxruntime merges float32 operations with others.
    """
    form = "float" if last else ""
    if of not in to.precise:
        return to.add(op, a, b, of=of, form=form)
    a, b = (to.cast(tensor, np.float64, of=of) for tensor in (a, b))
    return to.cast(to.add(op, a, b, of=of), np.float32, of=of, form=form)


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


def write_sign(to: Values, name: str, condition: str, direction: np.ndarray) -> None:
    """+direction where a condition is true, else -direction, in the form that the readers of the value want."""
    form = "code" if to.integers and name in to.uses.codes else "float"
    high, low = (direction + 1, 1 - direction) if form == "code" else (direction, -direction)
    dtype = np.uint8 if form == "code" else np.float32
    if (direction > 0).all():
        ends = [to.graph.number(int(end.flat[0]), dtype) for end in (high, low)]
    else:
        ends = [to.per_channel(end, name, what, dtype) for end, what in ((high, "then"), (low, "else"))]
    to.add("Where", condition, *ends, of=name, form=form)


def write_threshold(to: Values, node: nodes.Threshold | nodes.Sign) -> None:
    (source,), name = node.inputs, node.output
    x = to.values[source]
    if not x.exact:
        assert isinstance(node, nodes.Sign)
        _write_real_sign(to, node)
        return
    least, direction = rising(node, x)
    if to.graph.stored == "bipolar":
        # an odd multiple of a half is between the integers, so the sign of either direction has no zero
        tensor = to.get(source, "float")
        tensor = to.add("Sub", tensor, to.per_channel(least - 0.5, name, "middle", np.float32), of=name)
        if (direction < 0).any():
            tensor = to.add("Mul", tensor, to.per_channel(direction, name, "direction", np.float32), of=name)
        _bipolar(to, name, tensor)
        return
    form = to.natural(source)
    if form not in ("int", "double"):
        form = "float"  # all other forms are of smaller integers
    dtype = {"int": np.int32, "float": np.float32, "double": np.float64}[form]
    condition = to.add("GreaterOrEqual", to.get(source, form), to.per_channel(least, name, "least", dtype), of=name)
    write_sign(to, name, condition, direction)


def _write_real_sign(to: Values, node: nodes.Sign) -> None:
    (source,), name, shift = node.inputs, node.output, node.shift
    x = to.get(source, "float")
    if to.graph.stored == "bipolar":
        _bipolar(to, name, x if shift is None else to.add("Sub", x, to.per_channel(shift, name, "shift"), of=name))
        return
    # never ONNX's Sign, for which zero is zero
    least = to.graph.number(0, np.float32) if shift is None else to.per_channel(shift, name, "shift")
    write_sign(to, name, to.add("GreaterOrEqual", x, least, of=name), np.ones(1, np.int64))


def _bipolar(to: Values, name: str, tensor: str) -> None:
    to.made(name, "float", to.graph.bipolar(tensor, output=to.tensor_name(name, "float")))


def write_affine(to: Values, node: nodes.Affine) -> None:
    (source,), name = node.inputs, node.output
    precise = name in to.precise
    every = ("Mul", "scale", node.scale), ("Add", "shift", node.shift)
    steps = [(op, what, array) for op, what, array in every if array is not None]
    tensor = to.get(source, "double" if precise else "float")
    for op, what, array in steps:
        last = op == steps[-1][0]
        constant = to.per_channel(array, name, what)
        if precise:
            constant = to.cast(constant, np.float64, of=name)
        tensor = to.add(op, tensor, constant, of=name, form="float" if last and not precise else "")
    if precise:
        to.cast(tensor, np.float32, of=name, form="float")


def write_add(to: Values, node: nodes.Add) -> None:
    a, b = node.inputs
    name, made = node.output, to.values[node.output]
    if made.exact:
        wide = any(to.natural(source) in ("int", "double") for source in node.inputs)
        form = "int" if wide or (made.bound or 0) > FLOAT32_EXACT else "float"
        to.add("Add", to.get(a, form), to.get(b, form), of=name, form=form)
    else:
        real(to, "Add", to.get(a, "float"), to.get(b, "float"), of=name, last=True)


def write_multiply(to: Values, node: nodes.Multiply) -> None:
    a, b = (to.get(source, "float") for source in node.inputs)
    real(to, "Mul", a, b, of=node.output, last=True)


def write_prelu(to: Values, node: nodes.Prelu) -> None:
    slope = to.per_channel(node.slope, node.output, "slope")
    to.add("PRelu", to.get(node.inputs[0], "float"), slope, of=node.output, form="float")


def write_bounded(to: Values, node: nodes.Bounded) -> None:
    (source,), name = node.inputs, node.output
    form = "int" if to.values[name].exact and to.natural(source) in ("int", "double") else "float"
    if isinstance(node, nodes.Relu) and form == "float":
        to.add("Relu", to.get(source, form), of=name, form=form)
        return
    ends = []
    for what, bound in zip(("low", "high"), node.bounds, strict=True):
        if what in node.stored:
            ends.append(to.graph.constant(node.stored[what][0], f"{name}/{what}"))
        else:
            ends.append(to.graph.number(bound, DTYPES[form]) if abs(bound) < inf else "")
    to.add("Clip", to.get(source, form), *ends[: 2 if ends[1] else 1], of=name, form=form)


def write_concat(to: Values, node: nodes.Concat) -> None:
    form, *others = {to.natural(source) for source in node.inputs}
    made = to.values[node.output]
    zeros = (
        {zero_point(to.values[name]) for name in (node.output, *node.inputs)} if form == "code" and made.exact else ()
    )
    if others or not made.exact or form == "raw" or len(zeros) > 1:
        form = "float"
    if form == "float" and made.exact and (made.bound or 0) > FLOAT32_EXACT:
        form = "int"
    to.add("Concat", *(to.get(source, form) for source in node.inputs), of=node.output, form=form, axis=1)


def write_slice(to: Values, node: nodes.Slice) -> None:
    shape = to.graph.shape
    move(to, node, "Slice", shape(*node.start), shape(*node.stop), shape(1, 2, 3), shape(*node.step))


def write_pad(to: Values, node: nodes.Pad) -> None:
    (source,) = node.inputs
    form = to.natural(source)
    if form == "raw" or (form == "code" and zero_point(to.values[source]) != zero_point(to.values[node.output])):
        form = "float"
    value = node.value + zero_point(to.values[source]) if form == "code" else node.value
    dtype = {"code": np.uint8, "int": np.int32, "double": np.float64}.get(form, np.float32)
    (before, after), (top, bottom, left, right) = node.channels, node.padding
    border = to.graph.number(value, dtype)
    sizes = to.graph.shape(0, before, top, left, 0, after, bottom, right)
    to.add("Pad", to.get(source, form), sizes, border, of=node.output, form=form)


def write_repeat(to: Values, node: nodes.Repeat) -> None:
    """An axis of 1 behind each axis that is repeated, expanded and joined with it."""
    (source,), name = node.inputs, node.output
    form, shape = to.natural(source), to.values[source].shape
    pairs = [(size, *[times] * (times > 1)) for size, times in zip(shape, node.times, strict=True)]
    apart, wide = [n for size, *times in pairs for n in (size, *[1] * len(times))], [n for pair in pairs for n in pair]
    tensor = to.add("Reshape", to.get(source, form), to.graph.shape(-1, *apart), of=name)
    tensor = to.add("Expand", tensor, to.graph.shape(1, *wide), of=name)
    to.add("Reshape", tensor, to.graph.shape(-1, *to.values[name].shape), of=name, form=form)


def move(to: Values, node: Node, op: str, *constants: str, **attributes: Any) -> None:
    """An operation of ONNX that moves numbers of any form."""
    (source,) = node.inputs
    form = to.natural(source)
    to.add(op, to.get(source, form), *constants, of=node.output, form=form, **attributes)
