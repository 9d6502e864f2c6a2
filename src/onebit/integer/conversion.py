"""The walk that turns the operations of an exact net into those of an integer net, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np

from onebit.errors import FormatError, UsageError
from onebit.integer.form import Form
from onebit.integer.multipliers import half_up, multipliers
from onebit.packed import InputSpec, Node, PackedNet, infer, nodes
from onebit.packed.bits import pack_signs
from onebit.packed.net import INPUT, check_name
from onebit.packed.nodes import Value
from onebit.packed.nodes.node import INT32, SUM_LIMIT

INPUT_BITS, STREAM_BITS = 8, 16
"""Bits of an image that has real values, and of sums without bounds that no weights read, as in a residual stream."""
DIRECT = 2**16
"""Integers below it are read by weights as they are: those of an image, and sums of a few windows."""
MOST_TERMS = 3
"""A sum of more values than this is rounded."""
ARRANGE = nodes.Flatten, nodes.Reshape, nodes.Permute, nodes.Repeat, nodes.Concat, nodes.Slice, nodes.Pad
POOLS = nodes.MaxPool, nodes.AveragePool, nodes.AdaptiveAveragePool


class Rounding(NamedTuple):
    """A value of the exact net that is rounded: to multiples of its step, `least` to `most` times.

    sums: sums without bounds, of which the largest must fit.
    """

    name: str
    least: int
    most: int
    sums: bool


class Conversion:
    """The integer net of an exact net.

    Args:
        net: the exact net.
        bits: of activations; None to round only what the exact net rounds.
        step: the distance of two neighbors of a rounded value.

    Attributes:
        roundings: what was rounded with a `step`.
        rounds_pixels: whether pixels with real values became integers.
        joined: pairs of those that are concatenated and must have the same step.
    """

    def __init__(self, net: PackedNet, bits: int | None, step: Callable[[Rounding], float]) -> None:
        self.exact, self.known, self.bits, self.step = net, infer(net), bits, step
        self.readers: dict[str, list[Node]] = {name: [] for name in self.known}
        for node in net.nodes:
            for name in node.inputs:
                self.readers[name].append(node)
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.forms: dict[str, Form] = {}
        self.reals: dict[str, str] = {}
        self.roundings: dict[str, Rounding] = {}
        self.rounds_pixels = False
        self.origin: dict[str, str] = {}
        self.joined: list[tuple[str, str]] = []

    def convert(self) -> PackedNet:
        """The integer net; its outputs have the names of those of the exact net where they are free."""
        spec = self._input()
        for node in self.exact.nodes:
            form = CONVERSIONS[type(node)](self, node, *(self.forms[name] for name in node.inputs))
            self.forms[node.output] = self._settled(node.output, form)
        renamed = {name: self.real(name) for name in self.exact.outputs}
        output = self.exact.output
        return replace(
            self.exact,
            input=spec,
            nodes=_needed(self.nodes, set(renamed.values())),
            output=renamed[output]
            if isinstance(output, str)
            else {key: renamed[name] for key, name in output.items()}
            if isinstance(output, dict)
            else tuple(renamed[name] for name in output),
            certificate=None,
        )

    # ------------------------------------------------------------------------------------------------------- values
    def emit(self, kind: type[Node], name: str, *inputs: str, **fields: Any) -> str:
        """Append a node; the name of its value, `name` if it is free."""
        return self.append(kind(inputs=inputs, output=self._free(name), **fields))

    def append(self, node: Node) -> str:
        try:
            self.values[node.output] = node.infer(*(self.values[name] for name in node.inputs))
        except FormatError as error:
            raise FormatError(f"{node.output}: {error}") from None
        self.nodes.append(node)
        return node.output

    def again(self, node: Node, *inputs: str, **changes: Any) -> str:
        """Append a node of the exact net with other inputs."""
        return self.append(replace(node, inputs=inputs, output=self._free(node.output), **changes))

    def _free(self, name: str) -> str:
        """`name`, or with a number behind it if that is taken, also by a value of the exact net still to come."""
        free, number = name, 1
        while free in self.values or (free in self.known and free != name):
            number += 1
            free = f"{name[:90]}.{number}"
        check_name(free)
        return free

    def channels(self, name: str) -> int:
        """The length of the first axis of a value of the exact net."""
        return (*self.known[name].shape, 1)[0]

    def real(self, name: str) -> str:
        """The value that computes the form of a value of the exact net, real unless the form is an integer as it is."""
        if name not in self.reals:
            self.reals[name] = self.computed(name, self.forms[name])
        return self.reals[name]

    def computed(self, name: str, form: Form) -> str:
        """A value that computes a form."""
        shift, parts = form.shift, []
        for value, scale in form.terms.items():
            arrays = {"scale": scale if (scale != 1).any() else None, "shift": shift if shift.any() else None}
            parts.append((value, {key: _float32(array) for key, array in arrays.items() if array is not None}))
            shift = np.zeros_like(shift)
        left = sum(bool(fields) for _, fields in parts) + len(parts) - 1 + form.clipped

        def emit(kind: type[Node], *inputs: str, **fields: Any) -> str:
            nonlocal left
            left -= 1
            return self.emit(kind, f"{name[:80]}.part" if left else name, *inputs, **fields)

        total = ""
        for value, fields in parts:
            part = emit(nodes.Affine, value, **fields) if fields else value
            total = emit(nodes.Add, total, part) if total else part
        if not form.clipped:
            return total
        if (form.low, form.high) == (0, inf):
            return emit(nodes.Relu, total)
        bounds = {"low": form.low, "high": form.high}
        return emit(
            nodes.Clamp,
            total,
            **{key: np.array([bound], np.float32) for key, bound in bounds.items() if abs(bound) < inf},
        )

    def plain(self, name: str) -> tuple[str, float]:
        """(value, scale) of a value of the exact net; where its form is more than that, it is computed."""
        return self.forms[name].plain or (self.real(name), 1.0)

    def rounded(self, name: str, form: Form, step: float, least: int, most: int) -> Form:
        """The form of integers: `form` rounded once to multiples of `step` from `least` to `most`, half up."""
        own = form.scaled(np.full(len(form.shift), 1 / step), np.zeros(1))
        inside = own.low < 0.5 and own.high >= 0.5  # a range contains 0 and 1
        low, high = (max(least, half_up(own.low)), min(most, half_up(own.high))) if inside else (least, most)
        limits = {"least": int(low), "most": int(high)}
        numbers = None
        if inside and all(self.values[value].exact for value in form.terms):
            bounds = [self.values[value].bound or 0 for value in form.terms]
            numbers = multipliers(np.array(list(own.terms.values())), own.shift, bounds)
        if numbers is not None:
            fields = {"multiplier": numbers.multiplier, "offset": numbers.offset, "shift": numbers.shift}
            value = self.emit(nodes.Requantize, name, *form.terms, **fields, **limits)
        else:
            real = self.computed(f"{name[:80]}.scaled", replace(own, low=-inf, high=inf) if inside else own)
            value = self.emit(nodes.Quantize, name, real, **limits)
        return Form.of(value, len(form.shift), step)

    # ---------------------------------------------------------------------------------------------- what is rounded
    def _input(self) -> InputSpec:
        """The input of the integer net. Real values of an image become integers where weights multiply them."""
        spec = self.exact.input
        self.values[INPUT] = spec.value
        form = Form.of(INPUT, self.channels(INPUT))
        if spec.mean is not None and spec.std is not None and self.bits is not None:
            std = spec.std.astype(np.float64)
            pixels = form.scaled(1 / std, -spec.mean / std)
            if not all(self._takes(reader, pixels) for reader in self.readers[INPUT]):
                spec, form = replace(spec, coding="values", mean=None, std=None), pixels
                self.values[INPUT] = spec.value
        self.forms[INPUT] = self._settled(INPUT, form)
        return spec

    def _settled(self, name: str, form: Form) -> Form:
        """The form of a value, rounded if its readers need integers."""
        if self.bits is None:
            return form
        stream = isinstance(self._maker(name), nodes.Add) and not form.clipped and self._is_long(name, form)
        if not stream and all(self._takes(reader, form) for reader in self.readers[name]):
            return form
        image = set(form.terms) == {INPUT}
        sums = not form.clipped and not image and not self._feeds_weights(name)
        bits = INPUT_BITS if image else STREAM_BITS if sums else self.bits
        least, most = (0, 2**bits - 1) if self._never_negative(form) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if image and self.values[INPUT].exact:
            self.rounds_pixels = True
            return self.rounded(name, form, self._image_step(form, most), least, most)
        rounding = Rounding(name, least, most, sums)
        self.roundings[name] = rounding
        made = self.rounded(name, form, self.step(rounding), least, most)
        self.origin[next(iter(made.terms))] = name
        return made

    def _never_negative(self, form: Form) -> bool:
        positive = (form.shift >= 0).all() and all((scale >= 0).all() for scale in form.terms.values())
        values = [self.values[value] for value in form.terms]
        return form.low >= 0 or bool(positive and all(x.exact and x.limits[0] >= 0 for x in values))

    def _maker(self, name: str) -> Node | None:
        return next((node for node in self.exact.nodes if node.output == name), None)

    def _is_long(self, name: str, form: Form) -> bool:
        """Whether a sum of integers has many terms, or several that are read more than once."""
        integers = all(self.values[value].exact for value in form.terms)
        return integers and len(form.terms) > (MOST_TERMS if len(self.readers[name]) < 2 else 1)

    def _image_step(self, form: Form, most: int) -> float:
        """The step with which every pixel fits."""
        least, largest = self.values[INPUT].limits
        [scale] = form.terms.values()
        reach = max(float(np.abs(scale * pixel + form.shift).max()) for pixel in (least, largest))
        if not 0 < reach < inf:
            raise UsageError(f"the preprocessing of the net maps every pixel to {reach}: there is nothing to round")
        return reach / most

    def _feeds_weights(self, name: str) -> bool:
        """Whether one-bit weights read a value, also moved or pooled."""
        return any(
            isinstance(node, nodes.OneBitWeights)
            or (isinstance(node, (*ARRANGE, *POOLS)) and self._feeds_weights(node.output))
            for node in self.readers[name]
        )

    def _takes(self, reader: Node, form: Form) -> bool:
        """Whether an operation reads a form as it is."""
        if isinstance(reader, nodes.OneBitWeights):
            return form.plain is not None and self._multiplied(reader, self.values[form.plain[0]])
        if isinstance(reader, (*ARRANGE, nodes.MaxPool)):
            return form.plain is not None
        if isinstance(reader, nodes.AdaptiveAveragePool):
            same = self.pool_of(reader)
            return same is None or self.pools(same, form)
        if isinstance(reader, nodes.AveragePool):
            return self.pools(reader, form)
        if isinstance(reader, nodes.Affine):
            return not form.clipped or _keeps_bounds(reader)
        return not (isinstance(reader, (nodes.Add, nodes.Requantize)) and form.clipped)

    def _multiplied(self, reader: nodes.OneBitWeights, x: Value) -> bool:
        return x.bound is not None and x.bound < DIRECT and reader.terms * x.bound <= SUM_LIMIT

    def pool_of(self, node: nodes.AdaptiveAveragePool) -> nodes.AveragePool | None:
        """The pool with windows of one size that computes the same, if there is one."""
        height, width = self.known[node.inputs[0]].shape[1:]
        if height % node.size[0] or width % node.size[1]:
            return None
        window = height // node.size[0], width // node.size[1]
        return nodes.AveragePool(inputs=node.inputs, output=node.output, kernel=window, stride=window)

    def pools(self, node: nodes.AveragePool, form: Form) -> bool:
        """Whether sums of windows of a form are those of its only value."""
        if form.term is None or (form.shift.any() and any(node.padding)):
            return False
        bound = self.values[form.term[0]].bound
        return bound is None or prod(node.kernel) * bound <= SUM_LIMIT


def _needed(made: list[Node], wanted: set[str]) -> tuple[Node, ...]:
    """The nodes whose values are read, in order."""
    kept = []
    for node in reversed(made):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # found when the values of the net are checked
        return array.astype(np.float32)


def _float64(array: np.ndarray | None, default: float) -> np.ndarray:
    return np.full(1, default) if array is None else array.astype(np.float64)


def _keeps_bounds(node: nodes.Affine) -> bool:
    """Whether bounds before the operation are bounds behind it."""
    scale = _float64(node.scale, 1.0)
    return node.shift is None and bool(scale[0] > 0) and bool((scale == scale[0]).all())


# ------------------------------------------------------------------------------------------------------- operations
def _affine(net: Conversion, node: nodes.Affine, x: Form) -> Form:
    if x.clipped and not _keeps_bounds(node):
        x = Form.of(net.real(node.inputs[0]), len(x.shift))
    return x.scaled(_float64(node.scale, 1.0), _float64(node.shift, 0.0))


def _relu(net: Conversion, node: nodes.Relu, x: Form) -> Form:
    return x.between(0, inf)


def _hardtanh(net: Conversion, node: nodes.Hardtanh, x: Form) -> Form:
    return x.between(-1, 1)


def _clamp(net: Conversion, node: nodes.Clamp, x: Form) -> Form:
    low, high = (
        default if array is None else float(array[0]) for array, default in ((node.low, -inf), (node.high, inf))
    )
    return x.between(low, high)


def _add(net: Conversion, node: nodes.Add, *inputs: Form) -> Form:
    a, b = (
        Form.of(net.real(name), len(x.shift)) if x.clipped else x for name, x in zip(node.inputs, inputs, strict=True)
    )
    return a.plus(b)


def _quantize(net: Conversion, node: nodes.Quantize, x: Form) -> Form:
    return net.rounded(node.output, x, 1.0, node.least, node.most)


def _threshold(net: Conversion, node: nodes.Threshold, x: Form) -> Form:
    at = node.threshold.astype(np.float64)
    at[node.threshold == INT32.min], at[node.threshold == INT32.max] = -inf, inf  # true for every sum, or for none
    return _signs(net, node, x, at, node.direction.astype(np.float64))


def _sign(net: Conversion, node: nodes.Sign, x: Form) -> Form:
    return _signs(net, node, x, _float64(node.shift, 0.0) + np.zeros_like(x.shift), np.ones_like(x.shift))


def _signs(net: Conversion, node: Node, x: Form, at: np.ndarray, direction: np.ndarray) -> Form:
    """+1 where direction · x >= direction · at: a threshold of integers, or else a sign of real values."""
    if x.term is None or not net.values[x.term[0]].exact:
        shift = np.clip(-direction * at, -(2.0**32), 2.0**32)
        value = net.computed(f"{node.output[:80]}.scaled", x.scaled(direction, shift)) if not x.clipped else None
        if value is None:
            fields = {"scale": _float32(direction), "shift": _float32(shift)}
            value = net.emit(nodes.Affine, f"{node.output[:80]}.scaled", net.real(node.inputs[0]), **fields)
        return Form.of(net.emit(nodes.Sign, node.output, value), len(x.shift))
    value, scale = x.term
    slope, least = direction * scale, direction * (at - x.shift)  # slope · value >= least
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(slope == 0, np.where(least <= 0, -inf, inf), least / np.where(slope == 0, 1, slope))
        # a quotient is rounded, the product of an integer and a float32 is not
        rising = slope >= 0
        threshold, ahead = np.where(rising, np.ceil(quotient), np.floor(quotient)), np.where(rising, 1, -1)
        threshold = np.where(slope * threshold < least, threshold + ahead, threshold)
        threshold = np.where(slope * (threshold - ahead) >= least, threshold - ahead, threshold)
    threshold = np.clip(threshold, INT32.min, INT32.max).astype(np.int32)
    fields = {"threshold": threshold, "direction": ahead.astype(np.int8)}
    return Form.of(net.emit(nodes.Threshold, node.output, value, **fields), len(x.shift))


def _one_bit(net: Conversion, node: nodes.OneBitWeights, x: Form) -> Form:
    value, step = net.plain(node.inputs[0])
    if step != 1 and _has_border(node):
        value, step = net.real(node.inputs[0]), 1.0
    sums = net.again(node, value, scale=None, centre=None)
    terms = {sums: step * _float64(node.scale, 1.0) * np.ones(node.outputs)}
    if node.centre is not None:
        groups = getattr(node, "groups", 1)
        ones = pack_signs(np.ones((groups, node.terms), np.int8))
        whole = net.append(
            replace(
                node, inputs=(value,), output=net._free(f"{node.output[:80]}.sum"), signs=ones, scale=None, centre=None
            )
        )
        times = (node.outputs // groups, *[1] * (len(net.values[whole].shape) - 1))
        whole = net.emit(nodes.Repeat, f"{node.output[:80]}.sums", whole, times=times)
        terms[whole] = step * node.centre.astype(np.float64)
    return Form(terms, np.zeros(node.outputs))


def _has_border(node: Node) -> bool:
    """Whether it pads with ±1."""
    return bool(getattr(node, "padding_value", False)) and any(getattr(node, "padding", ()))


def _real_weights(net: Conversion, node: nodes.RealWeights, x: Form) -> Form:
    value, step = net.plain(node.inputs[0])
    if step != 1 and _has_border(node):
        value, step = net.real(node.inputs[0]), 1.0
    return Form.of(net.again(node, value), node.outputs, step)


def _moved(net: Conversion, node: Node, x: Form) -> Form:
    """Operations that move or choose elements."""
    value, step = net.plain(node.inputs[0])
    # a border of ±1 is not a multiple of the step, and a single number has no channels to be scaled
    if step != 1 and (getattr(node, "value", False) or not net.known[node.output].shape):
        value, step = net.real(node.inputs[0]), 1.0
    made = net.again(node, value)
    if value in net.origin:
        net.origin[made] = net.origin[value]
    return Form.of(made, net.channels(node.output), step)


def _concat(net: Conversion, node: nodes.Concat, *inputs: Form) -> Form:
    parts = [net.plain(name) for name in node.inputs]
    origins = [net.origin[value] for value, _ in parts if value in net.origin]
    net.joined += pairwise(origins)
    made = net.again(node, *(value for value, _ in parts))
    if len(origins) == len(parts):
        net.origin[made] = origins[0]
    steps = [np.full(len(x.shift), step) for x, (_, step) in zip(inputs, parts, strict=True)]
    return Form({made: np.concatenate(steps)}, np.zeros(net.channels(node.output)))


def _average_pool(net: Conversion, node: nodes.AveragePool, x: Form) -> Form:
    if not net.pools(node, x):
        return Form.of(net.again(node, net.real(node.inputs[0])), len(x.shift))
    assert x.term is not None
    value, scale = x.term
    pixels = prod(node.kernel)
    if net.values[value].exact and (node.sums or node.count_padding or not any(node.padding)):
        made = net.again(node, value, sums=1, count_padding=0)
        scale = scale if node.sums else scale / pixels
    else:
        made = net.again(node, value)
    return Form({made: scale}, x.shift * pixels if node.sums else x.shift)


def _adaptive(net: Conversion, node: nodes.AdaptiveAveragePool, x: Form) -> Form:
    same = net.pool_of(node)
    if same is not None and net.pools(same, x) and x.term is not None and net.values[x.term[0]].exact:
        return _average_pool(net, same, x)
    return Form.of(net.again(node, net.real(node.inputs[0])), len(x.shift))


def _as_real(net: Conversion, node: Node, *inputs: Form) -> Form:
    """An operation on real values."""
    return Form.of(net.again(node, *(net.real(name) for name in node.inputs)), net.channels(node.output))


def _requantize(net: Conversion, node: nodes.Requantize, *inputs: Form) -> Form:
    plain = [x.plain for x in inputs if x.plain is not None and x.plain[1] == 1 and net.values[x.plain[0]].exact]
    if len(plain) == len(inputs):
        return Form.of(net.again(node, *(value for value, _ in plain)), len(node.offset))
    unit = 2.0**-node.shift
    total = Form({}, node.offset * unit - 0.5)
    for name, x, multiplier in zip(node.inputs, inputs, node.multiplier, strict=True):
        own = Form.of(net.real(name), len(x.shift)) if x.clipped else x
        total = total.plus(own.scaled(multiplier * unit, np.zeros(1)))
    return net.rounded(node.output, total, 1.0, node.least, node.most)


CONVERSIONS: dict[type[Node], Callable[..., Form]] = {
    nodes.Flatten: _moved,
    nodes.Dense: _one_bit,
    nodes.RealDense: _real_weights,
    nodes.Conv: _one_bit,
    nodes.RealConv: _real_weights,
    nodes.ConvTranspose: _one_bit,
    nodes.RealConvTranspose: _real_weights,
    nodes.MaxPool: _moved,
    nodes.AveragePool: _average_pool,
    nodes.AdaptiveAveragePool: _adaptive,
    nodes.Affine: _affine,
    nodes.Threshold: _threshold,
    nodes.Sign: _sign,
    nodes.Relu: _relu,
    nodes.Prelu: _as_real,
    nodes.Hardtanh: _hardtanh,
    nodes.Add: _add,
    nodes.Concat: _concat,
    nodes.Slice: _moved,
    nodes.Pad: _moved,
    nodes.Reshape: _moved,
    nodes.Permute: _moved,
    nodes.Repeat: _moved,
    nodes.Clamp: _clamp,
    nodes.Multiply: _as_real,
    nodes.Requantize: _requantize,
    nodes.Quantize: _quantize,
}
"""For each operation: (conversion, node, forms of its inputs) -> form of its output."""
