"""The values of a plan by the names of their nodes, and the nodes that only move elements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from operator import mul
from typing import Any

import numpy as np

from onebit.native.kernel_calls import BITS, BYTES, CENTERED, INTEGER, REAL, UNSIGNED, KernelCalls, Slot
from onebit.native.layout import Axis, image_of, permuted, repeated, reshaped, strides
from onebit.packed import InputSpec, Node, OneBitWeights, PackedNet, Value, nodes
from onebit.packed.grid import GRID_BITS


class Values(KernelCalls):
    """The values so far, in `slots`.

    known: shape and kind of every value of the net. uses: number of nodes and outputs that read it. images: the coded
    inputs.
    """

    def __init__(self, net: PackedNet) -> None:
        super().__init__()
        self.net = net
        self.known = net.values
        self.uses = Counter([*net.outputs, *(name for node in net.nodes for name in node.inputs)])
        self.images = {name: self._coded(spec) for name, spec in net.inputs.items()}
        self.slots = {**self.images}

    def _coded(self, spec: InputSpec) -> Slot:
        coding = {"integer": CENTERED, "values": UNSIGNED}[spec.coding] if spec.value.exact else None
        image = Slot(image_of(spec.shape), REAL if coding is None else BYTES, self.buffer(), coding=coding)
        image.buffer.units = image.units
        return image

    def value(self, name: str, *, flat: bool = False) -> Slot:
        """The value of a name; a flattened one is reordered first, unless `flat`."""
        slot = self.slots[name]
        if flat or not slot.flat:
            return slot
        if "ordered" not in slot.kinds:
            slot.kinds["ordered"] = self.image_order(self.unpacked(slot))
        return slot.kinds["ordered"]

    def flatten(self, node: nodes.Flatten | nodes.Reshape) -> Slot:
        slot = self.value(node.inputs[0])
        channels, *pixels = slot.shape
        if pixels == [1, 1] or (channels == 1 and slot.kind != BITS):
            return self.move_node(node, slot, [])
        return slot.seen_as(slot.shape, flat=True)

    def reshape(self, node: nodes.Reshape) -> Slot:
        if len(node.shape) == 1:
            return self.flatten(node)
        slot, made = self.value(node.inputs[0]), image_of(node.shape)
        if made[0] == slot.shape[0]:
            return self.move_node(node, slot, [])
        slot = self.unpacked(slot)
        if (axes := reshaped(slot.shape, made)) is None:
            slot = self.image_order(slot)
            axes = reshaped(slot.shape, made)
            assert axes is not None
        return self.move_node(node, slot, axes)

    def move_node(self, node: Node, slot: Slot, axes: list[Axis]) -> Slot:
        """The value of a node that moves `slot`; its call takes no more operations if others read the input."""
        slot = self.move(slot, image_of(self.known[node.output].shape), axes)
        if self.uses[node.inputs[0]] > 1:
            slot.call = None
        return slot

    def permute(self, node: nodes.Permute) -> Slot:
        return self.rearrange(node, permuted, node.axes, 0)

    def repeat(self, node: nodes.Repeat) -> Slot:
        return self.rearrange(node, repeated, node.times, 1)

    def rearrange(self, node: Node, by: Callable[..., list[Axis]], order: tuple[int, ...], same: int) -> Slot:
        """A permuted or repeated value; bits stay in words if its channels stay the `same`."""
        slot, shape = self.value(node.inputs[0]), self.known[node.inputs[0]].shape
        if order and order[0] != same:
            slot = self.unpacked(slot)
        return self.move_node(node, slot, by((slot.pixel, *shape[1:])[: len(shape)], order))

    def plain(self, name: str, made: Value, *, coded: bool = False) -> Slot:
        """The value of a name with one unit per element, in the kind that `made` needs; bytes stay if `coded`."""
        slot = self.value(name)
        return slot if coded and slot.kind == BYTES else self.as_kind(slot, INTEGER if made.exact else REAL)

    def concat(self, node: nodes.Concat) -> Slot:
        made = self.known[node.output]
        shape = image_of(made.shape)
        coded = len({self.slots[name].coding for name in node.inputs}) == 1
        target: Any = None
        before = 0
        for part in [self.plain(name, made, coded=coded) for name in node.inputs]:
            axes = [Axis(part.shape[0], 1, 1), Axis(shape[1] * shape[2], part.shape[0], shape[0])]
            target = self.copy(part, shape, axes, to=before, into=target)
            before += part.shape[0]
        return target

    def slice(self, node: nodes.Slice) -> Slot:
        made = self.known[node.output]
        slot, shape = self.plain(node.inputs[0], made, coded=True), image_of(made.shape)
        source = strides(slot.shape)
        steps = map(mul, source, node.step)
        axes = list(map(Axis, shape, steps, strides(shape)))
        return self.copy(slot, shape, axes, from_=sum(map(mul, node.start, source)))

    def take(self, node: nodes.Take) -> Slot:
        """One copy for each run of indices; bits stay in words if the channels stay the same."""
        slot, shape = self.value(node.inputs[0]), image_of(self.known[node.output].shape)
        slot = slot if node.axis else self.unpacked(slot)
        sizes = [slot.pixel, *slot.shape[1:]]
        source = strides(sizes)
        target = strides([sizes[0] if node.axis else shape[0], *shape[1:]])
        made: Any = None
        before = 0
        for first, step, count in node.runs():
            sizes[node.axis] = count
            steps = [stride * (step if axis == node.axis else 1) for axis, stride in enumerate(source)]
            place = {"from_": first * source[node.axis], "to": before * target[node.axis]}
            made = self.copy(slot, shape, list(map(Axis, sizes, steps, target)), **place, into=made)
            before += count
        return made

    def pad(self, node: nodes.Pad) -> Slot:
        made = self.known[node.output]
        shape = image_of(made.shape)
        coding = self.slots[node.inputs[0]].coding
        byte = None if coding is None else coding.byte(node.value)
        slot = self.plain(node.inputs[0], made, coded=byte is not None)
        constant = node.value if made.exact else int(np.float32(node.value).view(np.int32))
        if byte is not None:
            constant = byte * 0x01010101
        canvas = self.emit("fill", (), shape, slot.kind, slot.coding, constant=constant)
        target = strides(shape)
        axes = list(map(Axis, slot.shape, strides(slot.shape), target))
        to = node.channels[0] + node.padding[0] * target[1] + node.padding[2] * target[2]
        return self.copy(slot, shape, axes, to=to, into=canvas)

    def channels_repeated(self, slot: Slot, times: int) -> Slot:
        """Each channel repeated `times`, as integers or reals."""
        slot = self.unpacked(slot)
        channels, height, width = slot.shape
        axes = repeated(slot.shape, (times, 1, 1))
        return self.copy(slot, (channels * times, height, width), axes)

    def integers(self, node: Any, slot: Slot) -> Slot:
        """The inputs of a product as integers: real values are rounded to their grid."""
        bound = self.known[node.inputs[0]].bound
        if slot.kind != REAL:
            slot = self.as_kind(slot, INTEGER)
        beyond = not isinstance(node, OneBitWeights) and bound is not None and bound > 2**GRID_BITS
        if slot.kind == INTEGER and not beyond:
            return slot
        slot = self.as_kind(slot, REAL)
        padded = abs(getattr(node, "padding_value", 0))
        key = f"grid {padded}"
        if key not in slot.kinds:
            slot.kinds[key] = self.emit("grid", (slot,), slot.shape, INTEGER, constant=padded)
        return slot.kinds[key]
