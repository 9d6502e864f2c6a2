"""Operations of transformers: normalizations, softmax, products of two values, attention."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from onebit.fold.arithmetic import affine, of_sample
from onebit.fold.call import Call, Shape, any_batch, batch_of, samples_of
from onebit.fold.chain import FoldedOp, Pending
from onebit.fold.folder import Folder
from onebit.fold.pooling import axes_of, reduced
from onebit.fold.shapes import channels_back, channels_first
from onebit.fold.unrolled import as_numbers
from onebit.fold.weight_layers import dense
from onebit.packed import AveragePool, Clamp, Multiply
from onebit.packed.nodes import Normalize, Product, Reciprocal, Softmax, Sqrt


@any_batch
def layer_norm(folder: Folder, call: Call, x: Pending, *others: Pending, centered: int = 1) -> Pending:
    """LayerNorm, or RMSNorm without `centered`, over the last axes."""
    sample, last = call.before[1:], call.argument(1, "normalized_shape", ())
    axes = tuple(call.axis(dim) for dim in range(-len(last), 0))
    weight = call.argument(2, "weight", None)
    bias, eps = (call.argument(3, "bias", None), call.argument(4, "eps", 1e-5)) if centered else (None, _rms_eps(call))
    y = channels_first(folder, call, x, sample, axes)
    y = _normalized(folder, call, y, weight, bias, eps, centered=centered)
    return channels_back(folder, call, y, sample, axes)


def _rms_eps(call: Call) -> float:
    eps = call.argument(3, "eps", None)
    return float(torch.finfo(torch.float32).eps) if eps is None else float(eps)


def group_norm(folder: Folder, call: Call, x: Pending, *others: Pending) -> Pending:
    groups, weight, bias = (
        call.argument(at, name, None) for at, name in enumerate(("num_groups", "weight", "bias"), 1)
    )
    return _normalized(folder, call, x, weight, bias, call.argument(4, "eps", 1e-5), groups=groups, whole=1)


def _normalized(
    folder: Folder, call: Call, x: Pending, weight: Tensor | None, bias: Tensor | None, eps: float, **fields: Any
) -> Pending:
    """The normalization of channels, and its affine map."""
    if any(isinstance(part, fx.Node) for part in (weight, bias)):
        raise call.refusal("expected constants as weight and bias")
    name = folder.emit(Normalize, call.name, folder.write(x), eps=np.array([eps], np.float32), **fields)
    scale, shift = (None if part is None else part.detach().double().flatten().numpy() for part in (weight, bias))
    if scale is None and shift is None:
        return Pending(name)
    return Pending(name).then(FoldedOp(call.name, lambda x: x, scale=scale, shift=shift, exact=False))


@any_batch
def softmax(folder: Folder, call: Call, x: Pending) -> Pending:
    return _softmax(folder, call, x, call.before[1:], call.axis(call.argument(1, "dim", None)))


def _softmax(folder: Folder, call: Call, x: Pending, sample: Shape, axis: int) -> Pending:
    y = channels_first(folder, call, x, sample, (axis,))
    return channels_back(folder, call, Pending(folder.emit(Softmax, call.name, folder.write(y))), sample, (axis,))


@any_batch
def matmul(folder: Folder, call: Call, *values: Pending) -> Pending:
    """x @ weight, or the product of two values."""
    operands = [
        call.argument(0, "input", None),
        call.argument(1, "mat2" if "mat2" in call.node.kwargs else "other", None),
    ]
    if len(values) == 1 and isinstance(operands[1], Tensor) and operands[1].dim() == 2:
        return dense(folder, call, values[0], operands[1].t(), None)
    if not all(isinstance(one, fx.Node) and one.op != "get_attr" for one in operands):
        raise call.refusal("expected x @ weight with a matrix of weights, or two values of the net")
    _refuse_batch(call, operands)
    a, b = (folder.pending[one] for one in operands)
    return product(folder, call, a, b, *(samples_of(one)[1:] for one in operands))


def _refuse_batch(call: Call, operands: Sequence[fx.Node]) -> None:
    """Refuse matrices along the samples, whose products would mix them."""
    if any(batch_of(one).axis >= one.meta["value"].dim() - 2 for one in operands):
        raise call.refusal("it multiplies along the axis of the samples")


def product(folder: Folder, call: Call, a: Pending, b: Pending, left: Shape, right: Shape) -> Pending:
    """a @ b for samples (…, T, K) and (…, K, S); along the other axes, which may differ, numbers are repeated."""
    if len(left) != len(right) or len(left) < 2:
        raise call.refusal(f"got samples of shapes {left} and {right}, expected matrices with the same other axes")
    rest, rows, images = tuple(map(max, left[:-2], right[:-2])), left[-2], []
    a, b = (folder.repeated(call, x, (1, *old), (1, *rest, *old[-2:])) for x, old in ((a, left), (b, right)))
    left, right = (*rest, *left[-2:]), (*rest, *right[-2:])
    for x, sample, axis in ((a, left, len(left) - 1), (b, right, len(right) - 2)):
        y = channels_first(folder, call, x, sample, (axis,))
        pixels = tuple(size for k, size in enumerate(sample) if k != axis)
        image = (sample[axis], prod(rest), pixels[-1])
        images.append(folder.write(folder.reshaped(call, y, (sample[axis], *pixels), image)))
    made = folder.emit(Product, call.name, *images)
    y = folder.reshaped(call, Pending(made), folder.values[made].shape, (right[-1], *rest, rows))
    sample = (*rest, rows, right[-1])
    return channels_back(folder, call, y, sample, (len(sample) - 1,))


@any_batch
def attention(folder: Folder, call: Call, *values: Pending) -> Pending:
    """softmax(query @ keyᵀ · scale + mask) @ value, of samples of shapes (…, T, K), (…, S, K) and (…, S, V)."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    *sources, mask, _, causal, scale = (call.argument(at, name, None) for at, name in enumerate(names))
    if isinstance(mask, fx.Node) or not all(isinstance(one, fx.Node) and one.op != "get_attr" for one in sources):
        raise call.refusal("expected values of the net, and a constant mask")
    _refuse_batch(call, sources)
    (q, k, v), (of_q, of_k, of_v) = zip(*((folder.pending[one], samples_of(one)[1:]) for one in sources), strict=True)
    last, sample = len(of_q) - 1, (*of_q[:-1], of_k[-2])
    turned = folder.permuted(call, k, (*range(last - 1), last, last - 1))
    named = [call._replace(name=f"{call.name}.{part}") for part in ("scores", "scale", "mask", "softmax")]
    y = product(folder, named[0], q, turned, of_q, (*of_k[:-2], of_k[-1], of_k[-2]))
    factor = 1 / sqrt(of_q[-1]) if scale is None else scale
    y = affine(folder, named[1], y, torch.tensor(factor).expand(sample), torch.mul, number=factor)
    if causal:
        y = affine(folder, named[2], y, as_numbers(torch.ones(sample[-2:]).tril() > 0).expand(sample), torch.add)
    if mask is not None:
        scores = (*call.node.meta["value"].shape[:-1], of_k[-2])
        y = affine(folder, named[2], y, of_sample(call, as_numbers(mask), scores), torch.add)
    return product(folder, call, _softmax(folder, named[3], y, sample, last), v, sample, of_v)


@any_batch
def einsum(folder: Folder, call: Call, *values: Pending) -> Pending:
    """`torch.einsum` of two values, as a product of matrices."""
    equation, *operands = call.node.args
    first, second, made = re.findall("[A-Za-z]+", equation.replace(" ", "") + ",,a,a")[:3]
    batch = batch_of(call.node)
    samples = first[batch.axis]
    both = [one for one in made if one in first and one in second]
    rows, columns = ([one for one in made if one not in both and one in part] for part in (first, second))
    sums = [one for one in first if one in second and one not in both]
    wanted = f"{first},{second}->{made}"
    if equation.replace(" ", "") != wanted or sorted(first + second) != sorted(2 * (both + sums) + rows + columns):
        raise call.refusal(f"got {equation!r}, expected two values, and each letter in two of three parts")
    if samples not in both or second[batch.axis] != samples:
        raise call.refusal(f"got {equation!r}, expected the samples along the same axis of both values")
    call.node.meta["batch"] = batch._replace(axis=made.index(samples))
    sizes, given = dict[str, int](), []
    for part, operand, order in zip(
        (first, second), operands, ((both, rows, sums), (both, sums, columns)), strict=True
    ):
        sample = samples_of(operand)[1:]
        split = (*sample[: batch.axis], batch.times, *sample[batch.axis + (batch.times > 1) :])
        sizes |= zip(part, split, strict=True)
        x = folder.reshaped(call, folder.pending[operand], sample, split)
        x = folder.permuted(call, x, tuple(part.index(one) for group in order for one in group))
        matrices = (*(sizes[one] for one in both), *(prod(sizes[one] for one in group) for group in order[1:]))
        given.append(
            (folder.reshaped(call, x, tuple(sizes[one] for group in order for one in group), matrices), matrices)
        )
    (a, left), (b, right) = given
    axes = [*both, *rows, *columns]
    y = product(folder, call, a, b, left, right)
    y = folder.reshaped(call, y, (*left[:-1], right[-1]), tuple(sizes[one] for one in axes))
    y = folder.permuted(call, y, tuple(axes.index(one) for one in made))
    return folder.reshaped(call, y, tuple(sizes[one] for one in made), call.shapes[1][1:])


@any_batch
def norm(folder: Folder, call: Call, x: Pending) -> Pending:
    """The Euclidean norm over axes."""
    if call.argument(1, "p", "fro") not in ("fro", 2, 2.0):
        raise call.refusal("expected the Euclidean norm, p=2")
    return _lengths(folder, call, x, axes_of(call, 2), call.shapes[1][1:])


@any_batch
def power(folder: Folder, call: Call, x: Pending, exponent: float | None = None) -> Pending:
    """x ** exponent, for small integers and ±0.5."""
    number = call.argument(1, "exponent", None) if exponent is None else exponent
    if not isinstance(number, (int, float)) or number not in (-2, -1, -0.5, 0.5, 1, 2, 3, 4):
        raise call.refusal(f"got exponent {number}, expected -2, -1, -0.5, 0.5, 1, 2, 3 or 4")
    y = x if abs(number) >= 1 else folder.elementwise(Sqrt, f"{call.name}.root", x)
    for _ in range(1, int(abs(number))):
        y = folder.elementwise(Multiply, call.name, y, x)
    return y if number > 0 else folder.elementwise(Reciprocal, f"{call.name}.reciprocal", y)


@any_batch
def normalize(folder: Folder, call: Call, x: Pending) -> Pending:
    """`F.normalize`: x / max(norm, eps)."""
    if call.argument(1, "p", 2.0) != 2:
        raise call.refusal("expected the Euclidean norm, p=2")
    (_, *sample), axis = call.before, call.axis(call.argument(2, "dim", 1))
    kept = (*sample[:axis], 1, *sample[axis + 1 :])
    low = np.array([call.argument(3, "eps", 1e-12)], np.float32)
    y = folder.elementwise(Clamp, f"{call.name}.eps", _lengths(folder, call, x, [axis + 1], kept), low=low)
    factor = folder.elementwise(Reciprocal, f"{call.name}.reciprocal", y)
    return folder.elementwise(Multiply, call.name, x, folder.repeated(call, factor, (1, *kept), (1, *sample)))


def _lengths(folder: Folder, call: Call, x: Pending, axes: Sequence[int], shape: Shape) -> Pending:
    """The Euclidean norms over these axes, with the batch as axis 0, in this shape."""
    square = folder.elementwise(Multiply, f"{call.name}.square", x, x)
    return folder.elementwise(
        Sqrt, f"{call.name}.norm", reduced(AveragePool, folder, call, square, axes, shape, sums=1)
    )
