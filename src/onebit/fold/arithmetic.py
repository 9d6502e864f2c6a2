"""Sums, differences, products and quotients: of two values, or of a value and a constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from onebit.fold.call import Call, any_batch, batch_of, samples_of
from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Folder
from onebit.fold.shapes import channels_back, channels_first
from onebit.packed import Add, Multiply
from onebit.packed.nodes import Reciprocal

Affine = Callable[[np.ndarray], tuple[np.ndarray | None, np.ndarray | None]]
"""Constants -> scale and shift of an affine map, float64 (C,); None for 1 and 0."""
AFFINE: dict[Callable[..., Any], tuple[Affine, Affine | None]] = {
    torch.add: (lambda c: (None, c), lambda c: (None, c)),
    torch.sub: (lambda c: (None, -c), lambda c: (-np.ones_like(c), c)),
    torch.mul: (lambda c: (c, None), lambda c: (c, None)),
    torch.div: (lambda c: (1 / c, None), None),
}
"""torch's operation -> the maps of x for operation(x, constant) and operation(constant, x); None if not affine."""


@any_batch
def arithmetic(compute: Callable[..., Any], folder: Folder, call: Call, *values: Pending) -> Pending:
    """compute(first, second), one of torch's four operations; one operand may be a constant."""
    args, kwargs = call.node.args, call.node.kwargs
    if len(args) > 2 or kwargs.get("alpha", 1) != 1 or kwargs.get("rounding_mode") is not None:
        raise call.refusal("expected two operands and no rounding: write x + alpha * y, x / y")
    first, second = call.argument(0, "input", None), call.argument(1, "other", None)
    for constant in (second, first):
        if not isinstance(constant, fx.Node):
            return with_constant(folder, call, values[0], constant, compute, value_first=constant is second)
    _, after = call.shapes
    terms: list[Pending] = []
    for term in (first, second):
        x, shape = folder.pending[term], samples_of(term)
        if compute is torch.sub and terms:
            minus = FoldedOp(f"{call.name}.minus", lambda sums: -sums, scale=np.full(shape[1], -1.0))
            x = folder.then(x, minus)
        if compute is torch.div and terms:
            x = folder.elementwise(Reciprocal, f"{call.name}.reciprocal", x)
        terms.append(folder.repeated(call, x, shape, after))
    return folder.elementwise(Add if compute in (torch.add, torch.sub) else Multiply, call.name, *terms)


@any_batch
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
    """compute(x, constant), or compute(constant, x), where `compute` is one of torch's four operations."""
    x, name = folder.repeated(call, x, *call.shapes), name or call.name
    if AFFINE[compute][not value_first] is None:
        x, compute = folder.elementwise(Reciprocal, f"{name}.reciprocal", x), torch.mul
    whole = of_sample(call, constant, call.node.meta["value"].shape)
    given = constant if isinstance(constant, (int, float)) or constant.dim() == 0 else None
    return affine(folder, call, x, whole, compute, value_first=value_first, name=name, number=given)


def affine(
    folder: Folder,
    call: Call,
    x: Pending,
    whole: Tensor,
    compute: Callable[..., Any],
    *,
    value_first: bool = True,
    name: str = "",
    number: Any = None,
) -> Pending:
    """`with_constant` for a constant of the shape of a sample of `x`; `number` is the constant if torch has a scalar.

    The axes along which the constant differs become the channels.
    """
    sample, name, make = tuple(whole.shape), name or call.name, AFFINE[compute][not value_first]
    assert make is not None
    differs = tuple(axis for axis in range(len(sample)) if (whole != whole.narrow(axis, 0, 1)).any())
    vector = whole[tuple(slice(None) if axis in differs else 0 for axis in range(len(sample)))].reshape(-1)
    with np.errstate(divide="ignore"):
        scale, shift = make(vector.double().numpy())
    if (scale is None or (scale == 1).all()) and (shift is None or not shift.any()):
        return x
    given = vector if number is None else number

    def mapped(x: Pending, channels: int) -> Pending:
        by, plus = (part if part is None else np.resize(part, channels) for part in (scale, shift))
        return folder.then(x, FoldedOp(name, apply, scale=by, shift=plus))

    def apply(sums: Tensor) -> Tensor:
        return compute(sums, given) if value_first else compute(given, sums)

    if differs:
        y = mapped(channels_first(folder, call, x, sample, differs), len(vector))
        return channels_back(folder, call, y, sample, differs)
    if not sample:
        return folder.reshaped(call, mapped(folder.reshaped(call, x, (), (1,)), 1), (1,), ())
    moves = [] if x.ops else folder.moves(x.base)
    if not moves:
        return mapped(x, sample[0])
    source = moves[0].inputs[0]
    return Pending(folder.redone(name, folder.write(mapped(Pending(source), folder.values[source].shape[0])), moves))


@any_batch
def add_product(folder: Folder, call: Call, *values: Pending) -> Pending:
    """`torch.addcmul` of two constants and a value: constant + constant · value."""
    terms = [call.argument(at, name, None) for at, name in enumerate(("input", "tensor1", "tensor2"))]
    factors = [term for term in terms[1:] if not isinstance(term, fx.Node)]
    if call.argument(3, "value", 1) != 1 or isinstance(terms[0], fx.Node) or len(factors) != 1:
        raise call.refusal("expected constant + constant * value")
    y = with_constant(folder, call, values[0], factors[0], torch.mul, name=f"{call.name}.product")
    return affine(folder, call, y, of_sample(call, terms[0], call.node.meta["value"].shape), torch.add)


def of_sample(call: Call, constant: Any, shape: Sequence[int]) -> Tensor:
    """A constant in the shape of a sample of a tensor of this shape: the same for all samples."""
    tensor = torch.as_tensor(constant).detach()
    if tensor.dtype != torch.float32:
        tensor = tensor.to(torch.float64).to(torch.float32)
    axis, times = batch_of(call.node)
    samples = tensor.expand(shape).movedim(axis, 0).unflatten(0, (-1, times))
    if tensor.dim() and (samples != samples[:1]).any():
        raise call.refusal(f"its constant of shape {tuple(tensor.shape)} differs along the batch")
    return samples[0].movedim(0, axis) if times > 1 else samples[0, 0]
