"""Packed nets in exact fractions, one number at a time, with the rounding that docs/format.md specifies."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np

from onebit.packed import Node, PackedNet, Value, infer, nodes as op
from onebit.packed.bits import unpack_signs

ONE = Fraction(1)


def f32(x: Fraction | float) -> Fraction:
    """Rounded to float32 once, from the exact value."""
    if not isinstance(x, Fraction):
        x = Fraction(float(x))
    near = np.float32(float(x))
    candidates = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return Fraction(float(min(candidates, key=lambda c: (abs(Fraction(float(c)) - x), int(c.view(np.uint32)) & 1))))


def by_hand(net: PackedNet, image: np.ndarray) -> list[Fraction]:
    """All outputs of a net for one input, concatenated."""
    values = {"input": _coded(net, image)}
    known = infer(net)
    for node in net.nodes:
        inputs = [values[name] for name in node.inputs]
        values[node.output] = _made(node, known, *inputs)
        assert values[node.output].shape == known[node.output].shape
    return [number for name in net.outputs for number in values[name].reshape(-1).tolist()]


def _coded(net: PackedNet, image: np.ndarray) -> np.ndarray:
    pixels = _each(lambda x: Fraction(float(x)), image)
    if net.input.coding == "values":
        return pixels
    if net.input.mean is None or net.input.std is None:
        return 2 * pixels - 255
    shape = (-1, *[1] * (image.ndim - 1))
    mean, std = (_each(f32, array).reshape(shape) for array in (net.input.mean, net.input.std))
    return _each(f32, _each(f32, pixels - mean) / std)


def _each(function: Any, array: np.ndarray) -> np.ndarray:
    result = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        result[index] = function(array[index])
    return result


def _made(node: Node, known: dict[str, Value], x: np.ndarray, *others: np.ndarray) -> np.ndarray:
    made = known[node.output]
    if isinstance(node, (op.Dense, op.RealDense, op.Conv, op.RealConv, op.ConvTranspose, op.RealConvTranspose)):
        return _products(node, made, x, bound=known[node.inputs[0]].bound)
    if isinstance(node, (op.MaxPool, op.AveragePool)):
        return _pooled(node, made, x)
    if isinstance(node, op.AdaptiveAveragePool):
        y = np.empty(made.shape, object)
        for c, i, j in np.ndindex(made.shape):
            (h, w), (hs, ws) = node.size, x.shape[1:]
            part = x[c, i * hs // h : -(-(i + 1) * hs // h), j * ws // w : -(-(j + 1) * ws // w)]
            y[c, i, j] = f32(f32(part.sum()) / part.size)
        return y
    if isinstance(node, op.Affine):
        parameters = (ONE if a is None else _per_channel(a, x) for a in (node.scale, node.shift))
        scale, shift = parameters
        return _each(f32, scale * x + (0 * ONE if node.shift is None else shift))
    if isinstance(node, op.Threshold):
        at, up = _per_channel(node.threshold, x), node.direction.reshape(-1, *[1] * (x.ndim - 1)) > 0
        return np.where(np.where(up, x >= at, x <= at), ONE, -ONE)
    if isinstance(node, op.Sign):
        return np.where(x >= (0 * ONE if node.shift is None else _per_channel(node.shift, x)), ONE, -ONE)
    if isinstance(node, op.Relu):
        return np.where(x > 0, x, 0 * ONE)
    if isinstance(node, op.Prelu):
        x = _each(f32, x)
        return np.where(x > 0, x, _each(f32, x * _per_channel(node.slope, x)))
    if isinstance(node, op.Activation):
        return _each(lambda v: _activation(node, f32(v)), x)
    if isinstance(node, op.Hardtanh):
        return _each(lambda v: min(max(v, -ONE), ONE), x)
    if isinstance(node, op.Add):
        return x + others[0] if made.exact else _each(f32, _each(f32, x) + _each(f32, others[0]))
    if isinstance(node, op.Concat):
        return np.concatenate([x, *others])
    if isinstance(node, op.Slice):
        first, second, third = (slice(*axis) for axis in zip(node.start, node.stop, node.step, strict=True))
        return x[first, second, third]
    if isinstance(node, op.Take):
        return np.moveaxis(np.array([np.moveaxis(x, node.axis, 0)[at] for at in node.indices]), 0, node.axis)
    if isinstance(node, op.Pad):
        return _bordered(x, node.channels, node.padding, node.value)
    if isinstance(node, op.Clamp):
        low, high = (None if bound is None else Fraction(float(bound[0])) for bound in (node.low, node.high))
        x = _each(f32, x)
        x = x if low is None else _each(lambda v: max(v, low), x)
        return x if high is None else _each(lambda v: min(v, high), x)
    if isinstance(node, op.Requantize):
        y = x * 0 + _per_channel(node.offset, x)
        for row, v in zip(node.multiplier, (x, *others), strict=True):
            y = y + _per_channel(row, x) * v
        return _each(lambda v: Fraction(min(max(floor(v / 2**node.right_shift), node.least), node.most)), y)
    if isinstance(node, op.Quantize):
        return _each(lambda v: Fraction(min(max(round(f32(v)), node.least), node.most)), x)
    if isinstance(node, op.Multiply):
        return _each(f32, _each(f32, x) * _each(f32, others[0]))
    if isinstance(node, op.Reshape):
        return x.reshape(node.shape)
    if isinstance(node, op.Permute):
        y = np.empty(made.shape, object)
        for index in np.ndindex(made.shape):
            source = [0] * len(index)
            for axis, at in zip(node.axes, index, strict=True):
                source[axis] = at
            y[index] = x[tuple(source)]
        return y
    if isinstance(node, op.Repeat):
        y = np.empty(made.shape, object)
        for index in np.ndindex(made.shape):
            y[index] = x[tuple(at // times for at, times in zip(index, node.times, strict=True))]
        return y
    assert isinstance(node, op.Flatten)
    return x.reshape(-1)


def _activation(node: op.Activation, x: Fraction) -> Fraction:
    if isinstance(node, op.activation.Hardswish):
        return f32(f32(x * min(max(f32(x + 3), 0 * ONE), 6 * ONE)) / 6)
    if isinstance(node, op.activation.Sigmoid):
        return f32(1 / f32(2 + _exp_less(-x, 1)))
    if isinstance(node, op.activation.Tanh):
        e = _exp_less(f32(2 * x), 1)
        return f32(e / f32(e + 2))
    x = 0 * x if x < f32(node.zero_below) else x
    if isinstance(node, op.activation.Silu):
        return f32(x / f32(2 + _exp_less(-x, 1)))
    if isinstance(node, op.activation.Mish):
        e = _exp_less(min(x, 20 * ONE), 0)
        n = f32(e * f32(e + 2))
        return f32(x * f32(n / f32(n + 2)))
    square = f32(x * x)
    if isinstance(node, op.activation.GeluTanh):
        return f32(x / f32(2 + _exp_less(-f32(x * f32(f32(square * f32(0.0713548163)) + f32(1.59576912))), 1)))
    t = f32(1 / f32(1 + f32(f32(0.3) * abs(x))))
    tail = f32(_exp_less(f32(-square / 2), 0) * f32(_horner(t, TAIL) * t))
    return f32(x * (f32(1 - tail) if x > 0 else tail))


EXP = 0.499999981, 0.166665425, 0.0416672047, 0.00836667247, 0.00138824928
TAIL = 0.11962551, 0.120867616, 0.0989657246, 0.132243102, -0.0614000655, 0.215351326, -0.162699224, 0.0370460323


def _horner(x: Fraction, numbers: tuple[float, ...]) -> Fraction:
    y = f32(numbers[-1])
    for number in numbers[-2::-1]:
        y = f32(f32(y * x) + f32(number))
    return y


def _exp_less(x: Fraction, one: int) -> Fraction:
    """e^x - one."""
    a = min(max(x, -80 * ONE), 80 * ONE)
    n = round(f32(a * f32(1.44269504)))
    r = f32(f32(a - f32(n * f32(0.693359375))) - f32(n * f32(-0.00021219444)))
    q = f32(r + f32(f32(r * r) * _horner(r, EXP)))
    return f32(f32(Fraction(2) ** n * q) + f32(Fraction(2) ** n - one))


def _per_channel(array: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _each(lambda a: Fraction(float(a)), array).reshape(-1, *[1] * (x.ndim - 1))


def _bordered(x: np.ndarray, channels: tuple[int, int], padding: tuple[int, int, int, int], value: Any) -> np.ndarray:
    return np.pad(x, (channels, padding[:2], padding[2:]), constant_values=Fraction(value))


def _windows(node: Any, pixel: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """(a, b, row, column) for each tap of the window of an output pixel."""
    for a, b in np.ndindex(*node.kernel):
        row = pixel[0] * node.stride[0] + a * node.dilation[0]
        yield a, b, row, pixel[1] * node.stride[1] + b * node.dilation[1]


def _pooled(node: op.MaxPool | op.AveragePool, made: Value, x: np.ndarray) -> np.ndarray:
    y = np.empty(made.shape, object)
    top, _, left, _ = node.padding
    exact = all(v.denominator == 1 for v in x.reshape(-1))
    for c, i, j in np.ndindex(made.shape):
        seen = []
        for _, _, row, column in _windows(node, (i, j)):
            inside = 0 <= row - top < x.shape[1] and 0 <= column - left < x.shape[2]
            seen.append(x[c, row - top, column - left] if inside else None)
        pixels = [v for v in seen if v is not None]
        if isinstance(node, op.MaxPool):
            y[c, i, j] = max(pixels)
            continue
        total = Fraction(0)
        for v in pixels:
            total = total + v if exact else f32(total + v)
        y[c, i, j] = total if node.sums else f32(f32(total) / (len(seen) if node.count_padding else len(pixels)))
    return y


def _on_grid(values: np.ndarray, least: Fraction) -> np.ndarray:
    """Multiples of 2^-e, with e = 24 - p (at most 126) where the largest magnitude is in [2^(p-1), 2^p)."""
    largest, p = max([least, *(abs(v) for v in values.reshape(-1))]), -(10**6)
    if largest:
        p = largest.numerator.bit_length() - largest.denominator.bit_length()
        p += largest >= Fraction(2) ** p  # now 2^(p-1) <= largest < 2^p
    unit = Fraction(2) ** -min(126, 24 - p)
    return _each(lambda v: round(v / unit) * unit, values)  # Python rounds ties to even


def _products(node: Any, made: Value, x: np.ndarray, *, bound: int | None) -> np.ndarray:
    """The sums of the weights of each output times their inputs."""
    one_bit = isinstance(node, (op.Dense, op.Conv, op.ConvTranspose))
    rows = unpack_signs(node.signs, node.in_features) if one_bit else node.weight
    rows = _each(lambda w: Fraction(float(w)), rows)
    padding = Fraction(abs(getattr(node, "padding_value", 0)))
    if bound is None or (bound > 2**24 and not one_bit):
        x = _on_grid(_each(f32, x), padding)
    if not one_bit:
        rows = np.stack([_on_grid(row, Fraction(0)) for row in rows])
    scale, centre = (node.scale, node.centre) if one_bit else (None, None)
    y = np.empty(made.shape, object)
    for index in np.ndindex(made.shape):
        output = index[0]
        inputs = _inputs(node, x, index)
        total = sum((w * v for w, v in zip(rows[output], inputs, strict=True)), Fraction(0))
        if made.kind == "real":
            total = f32(total)
        if scale is not None:
            total = f32(total * f32(scale[output]))
        if centre is not None:
            total = f32(total + f32(f32(sum(inputs, Fraction(0))) * f32(centre[output])))
        y[index] = total
    return y


def _inputs(node: Any, x: np.ndarray, index: tuple[int, ...]) -> list[Fraction]:
    """The values that the row of weights of an output multiplies, in order."""
    if isinstance(node, (op.Dense, op.RealDense)):
        return list(x)
    output, i, j = index
    outputs = len(node.signs) if isinstance(node, (op.Conv, op.ConvTranspose)) else len(node.weight)
    size = x.shape[0] // node.groups
    group = output // (outputs // node.groups)
    channels = range(group * size, (group + 1) * size)
    if isinstance(node, (op.Conv, op.RealConv)):
        padded = _bordered(x, (0, 0), node.padding, node.padding_value)
        return [padded[c, row, column] for _, _, row, column in _windows(node, (i, j)) for c in channels]
    inputs = []
    top, _, left, _ = node.padding
    for a, b in np.ndindex(*node.kernel):
        # the pixel whose tap (a, b) is at this output, if any
        row, down = divmod(i + top - a * node.dilation[0], node.stride[0])
        column, across = divmod(j + left - b * node.dilation[1], node.stride[1])
        hit = not down and not across and 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
        inputs += [x[c, row, column] if hit else Fraction(0) for c in channels]
    return inputs
