"""The walk over an exact net: which values are rounded, and the nodes of the integer net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np

from onebit.integer.form import Form
from onebit.integer.multipliers import RealRounding, half_up, multipliers
from onebit.packed import InputSpec, Node, PackedNet, nodes
from onebit.packed.net import needed, readers
from onebit.packed.nodes import Value, by_class
from onebit.packed.nodes.node import SUM_LIMIT

INPUT_BITS, STREAM_BITS = 8, 16
"""Bits of images with real values, and of unbounded sums that no weights read, as in a residual stream."""
MAX_TERMS = 3
"""Sums of more values are rounded."""
Affines = tuple[np.ndarray | None, np.ndarray | None]
"""Scale and shift of an affine map, float64 (C,); None for 1 and 0."""


class Rounding(NamedTuple):
    """A value of the exact net that is rounded to `least` to `most` times its step.

    sums: unbounded sums, whose range must contain the largest.
    """

    name: str
    least: int
    most: int
    sums: bool


class Rule(NamedTuple):
    """How an operation is converted.

    convert: (conversion, node, forms of its inputs) -> form of its output.
    takes: whether it reads a form without rounding.
    adds: whether long sums that it makes are rounded.
    """

    convert: Callable[..., Form]
    takes: Callable[[Conversion, Any, Form], bool] = lambda net, node, form: True
    adds: bool = False


class Conversion:
    """The integer net of an exact net.

    Args:
        net: the exact net.
        bits: of activations; None to round only what the exact net rounds.
        step: the step of a rounding of a form.
        table: the rule of each operation.
        numbers: float64 scale and shift of affine maps of the exact net, by name.

    Attributes:
        real_roundings: for each requantization, what it computes in real arithmetic.
        roundings: the roundings that have a `step`.
        rounds_pixels: whether pixels with real values became integers.
        joined: pairs of rounded values that are concatenated and must have the same step.
    """

    def __init__(
        self,
        net: PackedNet,
        bits: int | None,
        step: Callable[[Rounding, Form], float],
        table: Mapping[type, Rule],
        numbers: Mapping[str, Affines] | None = None,
    ) -> None:
        self.exact, self.known, self.bits, self.step, self.table = net, net.values, bits, step, table
        self.numbers = numbers or {}
        self.real_roundings: dict[str, RealRounding] = {}
        self.makers = {node.output: node for node in net.nodes}
        self.readers = readers(net)
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.forms: dict[str, Form] = {}
        self.reals: dict[str, str] = {}
        self.roundings: dict[str, Rounding] = {}
        self.rounds_pixels = False
        self.origin: dict[str, str] = {}
        self.joined: list[tuple[str, str]] = []

    def convert(self) -> PackedNet:
        """The integer net; its outputs keep their names where these are free."""
        inputs = {name: self._input(name, spec) for name, spec in self.exact.inputs.items()}
        for node in self.exact.nodes:
            form = self.rule(node).convert(self, node, *(self.forms[name] for name in node.inputs))
            self.forms[node.output] = self._settled(node.output, form)
        renamed = {name: self.real(name) for name in self.exact.outputs}
        return replace(
            self.exact,
            inputs=inputs,
            nodes=needed(self.nodes, renamed.values()),
            output=self.exact.structured(renamed),
            certificate=None,
            card=self.exact.card and self.exact.card.of_rounded(self.bits),
        )

    def rule(self, node: Node) -> Rule:
        """The rule of an operation."""
        rule: Rule = by_class(self.table, node)
        return rule

    # ------------------------------------------------------------------------------------------------------- values
    def emit(self, kind: type[Node], name: str, *inputs: str, **fields: Any) -> str:
        """Append a node; returns the name of its value: `name`, or a similar free one."""
        return self.append(kind(inputs=inputs, output=self.free(name), **fields))

    def append(self, node: Node) -> str:
        self.values[node.output] = node.infer(*(self.values[name] for name in node.inputs))
        self.nodes.append(node)
        return node.output

    def append_changed(self, node: Node, *inputs: str, **changes: Any) -> str:
        """Append a node of the exact net with other inputs and fields."""
        return self.append(replace(node, inputs=inputs, output=self.free(node.output), **changes))

    def free(self, name: str) -> str:
        """`name`, or `name` with a number if a value of either net has that name."""
        free, number = name, 1
        while free in self.values or (free in self.known and free != name):
            number += 1
            free = f"{name[:90]}.{number}"
        return free

    def channels(self, name: str) -> int:
        """The length of the first axis of a value of the exact net."""
        return (*self.known[name].shape, 1)[0]

    def real(self, name: str) -> str:
        """A value that computes the form of a value of the exact net: real, unless the form is one integer value."""
        if name not in self.reals:
            self.reals[name] = self.computed(name, self.forms[name])
        return self.reals[name]

    def computed(self, name: str, form: Form) -> str:
        """A value that computes a form."""
        before, shift, total, part_name = len(self.nodes), form.shift, "", f"{name[:80]}.part"
        for part, scale in form.terms.items():
            if (scale != 1).any() or shift.any():
                by = to_float32(scale) if (scale != 1).any() else None
                plus = to_float32(shift) if shift.any() else None
                part = self.emit(nodes.Affine, part_name, part, scale=by, shift=plus)
            total, shift = self.emit(nodes.Add, part_name, total, part) if total else part, np.zeros_like(shift)
        if (form.low, form.high) == (0, inf):
            total = self.emit(nodes.Relu, part_name, total)
        elif form.clipped:
            low, high = (np.array([x], np.float32) if abs(x) < inf else None for x in (form.low, form.high))
            total = self.emit(nodes.Clamp, part_name, total, low=low, high=high)
        if len(self.nodes) == before:
            return total
        del self.values[total]
        return self.append(replace(self.nodes.pop(), output=self.free(name)))

    def plain(self, name: str, *, scaled: bool = True) -> tuple[str, float]:
        """(value, scale) of a value of the exact net; a form that is not plain is computed.

        `scaled` tells whether the scale may differ from 1.
        """
        value, scale = self.forms[name].plain or (self.real(name), 1.0)
        return (value, scale) if scaled or scale == 1 else (self.real(name), 1.0)

    def unbounded(self, name: str) -> Form:
        """The form of a value of the exact net; a form with bounds is computed."""
        form = self.forms[name]
        return Form.of(self.real(name), len(form.shift)) if form.clipped else form

    def rounded(self, name: str, form: Form, step: float, least: int, most: int) -> Form:
        """The form of integers: `form` rounded once to multiples of `step` from `least` to `most`, half up."""
        units = form.scaled(np.full(len(form.shift), 1 / step), np.zeros(1))
        inside = units.low < 0.5 and units.high >= 0.5  # a range contains 0 and 1
        low, high = (max(least, half_up(units.low)), min(most, half_up(units.high))) if inside else (least, most)
        limits = {"least": int(low), "most": int(high)}
        scales, bounds = np.array([*units.terms.values()]), [self.values[value].bound for value in form.terms]
        fields = multipliers(scales, units.shift, bounds) if inside and None not in bounds else None
        if fields is not None:
            value = self.emit(nodes.Requantize, name, *form.terms, **fields, **limits)
            self.real_roundings[value] = RealRounding(tuple(form.terms), scales, units.shift, **limits)
        else:
            real = self.computed(f"{name[:80]}.scaled", replace(units, low=-inf, high=inf) if inside else units)
            value = self.emit(nodes.Quantize, name, real, **limits)
        return Form.of(value, len(form.shift), step)

    # ---------------------------------------------------------------------------------------------- what is rounded
    def _input(self, name: str, spec: InputSpec) -> InputSpec:
        """An input of the integer net. Pixels with real values become integers where weights multiply them."""
        self.values[name] = spec.value
        form = Form.of(name, self.channels(name))
        if spec.mean is not None and spec.std is not None and self.bits is not None:
            std = spec.std.astype(np.float64)
            pixels = form.scaled(1 / std, -spec.mean / std)
            if not all(self._takes(reader, pixels) for reader in self.readers[name]):
                spec, form = replace(spec, coding="values", mean=None, std=None), pixels
                self.values[name] = spec.value
        self.forms[name] = self._settled(name, form)
        return spec

    def _settled(self, name: str, form: Form) -> Form:
        """The form of a value, rounded if its readers need integers."""
        if self.bits is None:
            return form
        maker = self.makers.get(name)
        stream = maker is not None and self.rule(maker).adds and not form.clipped and self._is_long(name, form)
        if not stream and all(self._takes(reader, form) for reader in self.readers[name]):
            return form
        image = len(form.terms) == 1 and not self.exact.inputs.keys().isdisjoint(form.terms)
        sums = not form.clipped and not image and name not in self._feeding
        bits = INPUT_BITS if image else STREAM_BITS if sums else self.bits
        least, most = (0, 2**bits - 1) if self._never_negative(form) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if image and all(self.values[value].exact for value in form.terms):
            self.rounds_pixels = True
            return self.rounded(name, form, self._image_step(form, most), least, most)
        rounding = Rounding(name, least, most, sums)
        self.roundings[name] = rounding
        made = self.rounded(name, form, self.step(rounding, form), least, most)
        self.origin[next(iter(made.terms))] = name
        return made

    def _never_negative(self, form: Form) -> bool:
        positive = (form.shift >= 0).all() and all((scale >= 0).all() for scale in form.terms.values())
        values = [self.values[value] for value in form.terms]
        return form.low >= 0 or bool(positive and all(x.exact and x.limits[0] >= 0 for x in values))

    def _is_long(self, name: str, form: Form) -> bool:
        """Whether a sum of integers has too many terms, or several and more than one reader."""
        integers = all(self.values[value].exact for value in form.terms)
        return integers and len(form.terms) > (MAX_TERMS if len(self.readers[name]) < 2 else 1)

    def _image_step(self, form: Form, most: int) -> float:
        """The smallest step with which every pixel fits."""
        [(value, scale)] = form.terms.items()
        least, largest = self.values[value].limits
        reach = max(float(np.abs(scale * pixel + form.shift).max()) for pixel in (least, largest))
        return reach / most

    @cached_property
    def _feeding(self) -> set[str]:
        """The values that one-bit weights read, directly or moved or pooled."""
        feeding: set[str] = set()
        for node in reversed(self.exact.nodes):
            if node.binary_weights or ((node.moves or node.pools) and node.output in feeding):
                feeding.update(node.inputs)
        return feeding

    def _takes(self, reader: Node, form: Form) -> bool:
        return self.rule(reader).takes(self, reader, form)

    def pool_of(self, node: nodes.AdaptiveAveragePool) -> nodes.AveragePool | None:
        """The equivalent pool with windows of one size, if there is one for all sizes of images."""
        height, width = self.known[node.inputs[0]].shape[1:]
        if self.exact.free or height % node.size[0] or width % node.size[1]:
            return None
        window = height // node.size[0], width // node.size[1]
        return nodes.AveragePool(inputs=node.inputs, output=node.output, kernel=window, stride=window)

    def pools(self, node: nodes.AveragePool, form: Form) -> bool:
        """Whether a pool of a form is a pool of its only value."""
        if form.term is None or (form.shift.any() and any(node.padding)):
            return False
        bound = self.values[form.term[0]].bound
        return bound is None or prod(node.kernel) * bound <= SUM_LIMIT


def to_float32(array: np.ndarray | None) -> np.ndarray | None:
    with np.errstate(over="ignore"):  # the check of the values of the net finds it
        return None if array is None else array.astype(np.float32)


def float64_or(array: np.ndarray | None, default: float) -> np.ndarray:
    return np.full(1, default) if array is None else array.astype(np.float64)


def keeps_bounds(node: nodes.Affine) -> bool:
    """Whether the operation maps bounds to bounds: one positive scale, no shift."""
    scale = float64_or(node.scale, 1.0)
    return node.shift is None and bool(scale[0] > 0) and bool((scale == scale[0]).all())
