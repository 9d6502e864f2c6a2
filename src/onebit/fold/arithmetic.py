"""Sums, differences, products and quotients: of two values, or of a value and a constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from onebit.fold.call import Call, check_finite
from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Folder
from onebit.fold.shapes import shown
from onebit.fold.trace import LAYER_BY_LAYER
from onebit.packed import Add, Multiply

DIVIDES = f"it divides by a value of the net; multiply, or divide by a constant, or {LAYER_BY_LAYER}"
Parts = tuple[np.ndarray | None, np.ndarray | None]
"""scale and shift of an affine map, float64 (C,); None for 1 and 0."""


@dataclass(frozen=True)
class _Arithmetic:
    """One of the four operations.

    compute: what torch computes.
    after, before: the affine map of x for compute(x, constant) and compute(constant, x); None if it is none.
    """

    compute: Callable[[Any, Any], Any]
    after: Callable[[np.ndarray], Parts]
    before: Callable[[np.ndarray], Parts] | None


_ADD = _Arithmetic(torch.add, lambda c: (None, c), lambda c: (None, c))
_SUBTRACT = _Arithmetic(torch.sub, lambda c: (None, -c), lambda c: (-np.ones_like(c), c))
_MULTIPLY = _Arithmetic(torch.mul, lambda c: (c, None), lambda c: (c, None))
_DIVIDE = _Arithmetic(torch.div, lambda c: (1 / c, None), None)


def add(folder: Folder, call: Call, *values: Pending) -> Pending:
    return _arithmetic(folder, call, _ADD, _terms(call), values)


def subtract(folder: Folder, call: Call, *values: Pending) -> Pending:
    return _arithmetic(folder, call, _SUBTRACT, _terms(call), values)


def subtract_from(folder: Folder, call: Call, *values: Pending) -> Pending:
    return _arithmetic(folder, call, _SUBTRACT, _terms(call)[::-1], values)


def multiply(folder: Folder, call: Call, *values: Pending) -> Pending:
    return _arithmetic(folder, call, _MULTIPLY, _terms(call), values)


def divide(folder: Folder, call: Call, *values: Pending) -> Pending:
    if call.argument(9, "rounding_mode", None) is not None:
        raise call.refusal("it rounds; use rounding_mode=None")
    return _arithmetic(folder, call, _DIVIDE, _terms(call), values)


def negate(folder: Folder, call: Call, x: Pending) -> Pending:
    return with_constant(folder, call, x, -1, torch.mul)


def _terms(call: Call) -> tuple[Any, Any]:
    """The two operands, which may be numbers, constants or values of the net."""
    assert call.node is not None
    first = call.node.args[0] if call.node.args else call.node.kwargs["input"]
    second = call.argument(1, "other", None)
    if len(call.node.args) > 1:
        second = call.node.args[1]
    if len(call.node.args) > 2:
        raise call.refusal("it has three arguments, as torch.add(x, alpha, y), expected two: write x + alpha * y")
    if call.argument(9, "alpha", 1) != 1:
        raise call.refusal("it multiplies by alpha, expected the sum of two values: write x + alpha * y")
    return first, second


def _is_value(term: object) -> bool:
    return isinstance(term, fx.Node) and term.op != "get_attr"


def _arithmetic(
    folder: Folder, call: Call, kind: _Arithmetic, terms: tuple[Any, Any], values: tuple[Pending, ...]
) -> Pending:
    first, second = terms
    if _is_value(first) and _is_value(second):
        return _of_values(folder, call, kind, (first, second), values)
    value_first = _is_value(first)
    constant = second if value_first else first
    return with_constant(folder, call, values[0], constant, kind.compute, value_first=value_first)


def _of_values(
    folder: Folder, call: Call, kind: _Arithmetic, terms: tuple[fx.Node, fx.Node], values: tuple[Pending, ...]
) -> Pending:
    if kind is _DIVIDE:
        raise call.refusal(DIVIDES)
    _, after = call.shapes
    by_node = call.by_node(values)
    sources = []
    for position, term in enumerate(terms):
        x, shape = by_node[term], tuple(term.meta["value"].shape)
        if len(shape) != len(after) or shape[0] != after[0]:
            raise call.refusal(f"got {shown(shape)} for a result of {shown(after)}, expected the same number of axes")
        if kind is _SUBTRACT and position == 1:
            x = _negated(folder, call, x, shape)
        sources.append(folder.write(folder.repeated(call, x, shape[1:], after[1:])))
    return Pending(folder.emit(Multiply if kind is _MULTIPLY else Add, call.name, *sources))


def with_constant(
    folder: Folder,
    call: Call,
    x: Pending,
    constant: Any,
    compute: Callable[[Any, Any], Any],
    *,
    value_first: bool = True,
    name: str = "",
) -> Pending:
    """compute(x, constant), or compute(constant, x), where `compute` is one of torch's four operations.

    A constant that differs within a channel makes the value a vector, with each element a channel.
    """
    before, after = call.shapes
    kind = next(kind for kind in (_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE) if kind.compute is compute)
    affine = kind.after if value_first else kind.before
    if affine is None:
        raise call.refusal(DIVIDES)
    if isinstance(constant, fx.Node):
        constant = constant.meta["value"]
    if not isinstance(constant, (int, float, Tensor)):
        raise call.refusal(f"got {type(constant).__name__}, expected a number, a tensor or a value of the net")
    whole = _of_sample(call, constant, before, after)
    x = folder.repeated(call, x, before[1:], after[1:])
    sample = after[1:]
    rows = whole.reshape(sample[0], -1) if sample else whole.reshape(1, 1)
    vector = bool(sample) and bool((rows == rows[:, :1]).all())
    numbers = (rows[:, 0] if vector else whole.reshape(-1)).contiguous()
    with np.errstate(divide="ignore"):
        scale, shift = affine(numbers.double().numpy())
    if (scale is None or (scale == 1).all()) and (shift is None or not shift.any()):
        return x
    given = constant if isinstance(constant, (int, float)) or constant.dim() == 0 else numbers

    def apply(sums: Tensor) -> Tensor:
        return compute(sums, given) if value_first else compute(given, sums)

    op = FoldedOp(name or call.name, apply, scale=scale, shift=shift)
    if vector:
        return folder.then(x, op)
    flat = folder.reshaped(call, x, sample, (prod(sample),))
    return folder.reshaped(call, folder.then(flat, op), (prod(sample),), sample)


def _of_sample(call: Call, constant: Any, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """A constant in the shape of one sample of the result: the same for all samples of a batch."""
    tensor = torch.as_tensor(constant).detach()
    if len(after) != len(before) or after[0] != before[0]:
        raise call.refusal(f"it turns {shown(before)} into {shown(after)}, expected the same axes, the batch first")
    if tensor.dtype != torch.float32:
        tensor = tensor.to(torch.float64).to(torch.float32)
    if tensor.dim() == len(after):
        if (tensor != tensor[:1]).any():
            raise call.refusal(
                f"its constant of shape {tuple(tensor.shape)} differs along the batch, expected one for all"
            )
        tensor = tensor[0]
    return check_finite(call.name, "constants", tensor).expand(after[1:])


def _negated(folder: Folder, call: Call, x: Pending, shape: tuple[int, ...]) -> Pending:
    """-`x`, of shape `shape` with the batch."""
    if len(shape) < 2:
        raise call.refusal(f"got {shown(shape)}, expected a value with channels")
    return folder.then(x, FoldedOp(f"{call.name}.minus", lambda sums: -sums, scale=np.full(shape[1], -1.0)))
