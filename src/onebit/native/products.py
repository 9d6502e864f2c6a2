"""Which kernel multiplies by weights: a table, in order of preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from onebit.native.arena import most_batch
from onebit.native.kernel_calls import BITS, BYTES, WORD, Slot
from onebit.native.library import InstructionSet
from onebit.native.panels import sign_panels
from onebit.native.taps import Axis
from onebit.native.values import Values
from onebit.native.weight_kernels import (
    WeightKernel,
    depthwise_kernel,
    dot_kernel,
    lookup_kernel,
    planes_of_bytes,
    real_kernel,
    segment_units,
)
from onebit.packed import OneBitWeights


@dataclass
class Product:
    """Sums over taps of weights times inputs.

    Args:
        node: with the weights.
        slot: the inputs in memory.
        rows: the weights (G, O, T, I), bool for signs, float64 integers on their grids for real weights.
        axes: taps along the rows and the columns of an image.
        levels: the two levels of inputs that are in memory as signs.
        on_a_grid: the inputs are real, rounded to a grid.
        isa: of the kernels.
    """

    node: Any
    slot: Slot
    rows: np.ndarray
    axes: tuple[Axis, Axis]
    levels: Slot | None
    on_a_grid: bool
    isa: InstructionSet

    @property
    def one_bit(self) -> bool:
        return isinstance(self.node, OneBitWeights)

    @cached_property
    def depthwise(self) -> WeightKernel | None:
        return depthwise_kernel(self.node, self.rows, on_a_grid=self.on_a_grid)


class ProductCall(NamedTuple):
    """A kernel with its weights, the inputs in the form that it reads, and fields of the call."""

    kernel: WeightKernel
    slot: Slot
    fields: dict[str, Any]


class ProductKernel(NamedTuple):
    """A way to multiply.

    Args:
        takes: whether it can compute a product.
        call: converts the inputs and lays out the weights.
    """

    takes: Callable[[Product], bool]
    call: Callable[[Values, Product], ProductCall]


def _on_integers(values: Values, product: Product) -> tuple[Slot, dict[str, Any]]:
    slot = values.integers(product.node, product.slot)
    return slot, {"real": slot.call is not None and slot.call.kernel == "grid"}


def _depthwise(values: Values, product: Product) -> ProductCall:
    """Each channel has weights of its own: nothing is summed over channels."""
    groups, outputs, _, _ = product.rows.shape
    kernel, fields = product.depthwise, dict[str, Any]()
    assert kernel is not None
    if outputs > 1:
        product = replace(product, slot=values.channels_repeated(product.slot, outputs))
    slot = product.slot
    if product.one_bit and slot.kind == BYTES:
        fields["real"] = slot.call is not None and slot.call.kernel == "grid"
    else:
        slot, fields = _on_integers(values, product)
    return ProductCall(kernel, slot, fields | {"groups": 1, "outputs": groups * outputs})


def _xnor(values: Values, product: Product) -> ProductCall:
    """Signs by signs: 32 products in a word. With levels, the sums of weights are in scratch memory."""
    groups, outputs, _, _ = product.rows.shape
    levels = product.levels is not None
    panels = sign_panels(product.rows, product.isa.lanes)
    return ProductCall(WeightKernel("xnor", *panels, 2 * groups * outputs * levels), product.slot, {"levels": levels})


def _bytes(values: Values, product: Product) -> ProductCall:
    """Bytes by signs: four products in an instruction, or lookups of the sums of five."""
    assert product.slot.coding is not None
    kernel = dot_kernel(product.node, product.rows, product.axes, product.slot, product.slot.coding, product.isa)
    return ProductCall(kernel, product.slot, {})


def _lookups(values: Values, product: Product) -> ProductCall:
    """Other integers by signs: sums of a few inputs with all signs are computed once, and looked up.

    A dense layer of several images, or for each pixel, may split the integers into bytes instead, for tiles of bytes.
    """
    slot, fields = _on_integers(values, product)
    kernel, isa = lookup_kernel(product.node, product.rows, product.axes, slot.shape[2], product.isa), product.isa
    _, height, width = slot.shape
    rows = width if width > 1 else most_batch(slot.buffer.units)
    if height == 1 and not kernel.more and 0 < isa.byte_tiles <= rows:
        block, units = planes_of_bytes(product.rows.shape[3], isa)
        kernel = replace(kernel, scratch=max(kernel.scratch, units - segment_units(1)))
        fields |= {"planes": isa.byte_tiles, "block": block}
    return ProductCall(kernel, slot, fields)


def _real(values: Values, product: Product) -> ProductCall:
    """Real weights: integers on their grids, summed in an int64."""
    slot, fields = _on_integers(values, product)
    return ProductCall(real_kernel(product.node, product.rows), slot, fields)


def _in_words(product: Product) -> bool:
    groups, _, _, channels = product.rows.shape
    return product.one_bit and product.slot.kind == BITS and (groups == 1 or channels % WORD == 0)


def _as_bytes(product: Product) -> bool:
    return bool(product.one_bit and product.isa.dot_fours and product.slot.coding and product.node.centre is None)


PRODUCTS = {
    "depthwise": ProductKernel(lambda product: product.depthwise is not None, _depthwise),
    "xnor": ProductKernel(_in_words, _xnor),
    "bytes": ProductKernel(_as_bytes, _bytes),
    "lookups": ProductKernel(lambda product: product.one_bit, _lookups),
    "real": ProductKernel(lambda product: True, _real),
}
"""Name -> a way to multiply; the first that takes a product computes it."""


def call_of(values: Values, product: Product) -> ProductCall:
    """The call that computes a product."""
    return next(kernel for kernel in PRODUCTS.values() if kernel.takes(product)).call(values, product)
