"""Sums, differences, products and quotients: of two values, or of a value and a constant."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from onebit.fold.call import Call, Shape
from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Folder
from onebit.fold.trace import LAYER_BY_LAYER
from onebit.packed import Add, Multiply

DIVIDES = f"it divides by a value of the net: multiply, divide by a constant, or {LAYER_BY_LAYER}"
Affine = Callable[[np.ndarray], tuple[np.ndarray | None, np.ndarray | None]]
"""Constants -> scale and shift of an affine map, float64 (C,); None for 1 and 0."""
AFFINE: dict[Callable[..., Any], tuple[Affine, Affine | None]] = {
    torch.add: (lambda c: (None, c), lambda c: (None, c)),
    torch.sub: (lambda c: (None, -c), lambda c: (-np.ones_like(c), c)),
    torch.mul: (lambda c: (c, None), lambda c: (c, None)),
    torch.div: (lambda c: (1 / c, None), None),
}
"""torch's operation -> the maps of x for operation(x, constant) and operation(constant, x); None if not affine."""


def arithmetic(compute: Callable[..., Any], folder: Folder, call: Call, *values: Pending) -> Pending:
    """compute(first, second), one of torch's four operations; one operand may be a constant."""
    args, kwargs = call.node.args, call.node.kwargs
    if len(args) > 2 or kwargs.get("alpha", 1) != 1 or kwargs.get("rounding_mode") is not None:
        raise call.refusal("expected two operands and no rounding: write x + alpha * y, x / y")
    first, second = call.argument(0, "input", None), call.argument(1, "other", None)
    for constant in (second, first):
        if not isinstance(constant, fx.Node):
            return with_constant(folder, call, values[0], constant, compute, value_first=constant is second)
    if compute is torch.div:
        raise call.refusal(DIVIDES)
    _, after = call.shapes
    sources: list[str] = []
    for term in (first, second):
        x, shape = folder.pending[term], tuple(term.meta["value"].shape)
        if compute is torch.sub and sources:
            minus = FoldedOp(f"{call.name}.minus", lambda sums: -sums, scale=np.full(shape[1], -1.0))
            x = folder.then(x, minus)
        sources.append(folder.write(folder.repeated(call, x, shape, after)))
    return Pending(folder.emit(Multiply if compute is torch.mul else Add, call.name, *sources))


def with_constant(
    folder: Folder,
    call: Call,
    x: Pending,
    constant: Any,
    compute: Callable[..., Any],
    *,
    value_first: bool = True,
    name: str = "",
) -> Pending:
    """compute(x, constant), or compute(constant, x), where `compute` is one of torch's four operations.

    If the constant differs within a channel, the value is flattened, so that each element is a channel.
    """
    before, after = call.shapes
    affine = AFFINE[compute][not value_first]
    if affine is None:
        raise call.refusal(DIVIDES)
    x, sample = folder.repeated(call, x, before, after), after[1:]
    whole = _of_sample(call, constant, after)
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


def _of_sample(call: Call, constant: Any, after: Shape) -> Tensor:
    """A constant in the shape of one sample of the result: the same for all samples of a batch."""
    tensor = torch.as_tensor(constant).detach()
    if tensor.dtype != torch.float32:
        tensor = tensor.to(torch.float64).to(torch.float32)
    if tensor.dim() == len(after):
        if (tensor != tensor[:1]).any():
            raise call.refusal(f"its constant of shape {tuple(tensor.shape)} differs along the batch")
        tensor = tensor[0]
    return tensor.expand(after[1:])
