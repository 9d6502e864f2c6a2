"""The values of a plan, by the name of their node, and the nodes that only move them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from onebit.native.kernel_calls import BITS, BYTES, CENTERED, INTEGER, REAL, UNSIGNED, Coding, KernelCalls, Slot
from onebit.native.layout import Axis, image_of, permuted, repeated, reshaped, strides
from onebit.packed import Node, PackedNet, Value, nodes
from onebit.packed.net import INPUT


class Values:
    """The values that were made so far, in `slots`; `known` has those of the whole net, without their data.

    uses: how many nodes and outputs read each. calls: the kernel calls so far. image: the coded input.
    """

    def __init__(self, net: PackedNet) -> None:
        self.net = net
        self.known = net.values
        self.uses = Counter([*net.outputs, *(name for node in net.nodes for name in node.inputs)])
        self.calls = KernelCalls()
        coding = {"integer": CENTERED, "values": UNSIGNED}[net.input.coding] if net.input.value.exact else None
        shape = image_of(net.input.shape)
        self.image = Slot(shape, REAL if coding is None else BYTES, self.calls.buffer(0), coding=coding)
        self.image.buffer.units = self.image.units
        self.slots = {INPUT: self.image}

    def value(self, name: str, *, flat: bool = False) -> Slot:
        """The value of a name; a flattened one is put in order first, unless `flat` allows it as it is."""
        slot = self.slots[name]
        if flat or not slot.flat:
            return slot
        if "ordered" not in slot.kinds:
            integers = self.calls.as_kind(slot, INTEGER) if slot.kind == BITS else slot
            slot.kinds["ordered"] = self.calls.image_order(integers)
        return slot.kinds["ordered"]

    def flatten(self, node: nodes.Flatten | nodes.Reshape) -> Slot:
        slot = self.value(node.inputs[0])
        channels, height, width = slot.shape
        vector = (channels * height * width, 1, 1)
        if height * width == 1 or (channels == 1 and slot.kind != BITS):
            return self.seen_as(node, self.calls.move(slot, vector, [Axis(slot.size, 1, 1)]))
        return slot.seen_as(slot.shape, flat=True)

    def reshape(self, node: nodes.Reshape) -> Slot:
        if len(node.shape) == 1:
            return self.flatten(node)
        slot, made = self.value(node.inputs[0]), image_of(node.shape)
        if made[0] == slot.shape[0]:
            return self.seen_as(node, slot.seen_as(made, slot.call))
        slot = self.calls.as_kind(slot, INTEGER) if slot.kind == BITS else slot
        if (axes := reshaped(slot.shape, made)) is None:
            slot = self.calls.image_order(slot)
            axes = reshaped(slot.shape, made)
            assert axes is not None
        return self.seen_as(node, self.calls.move(slot, made, axes))

    def seen_as(self, node: Node, slot: Slot) -> Slot:
        """A value that may be in the memory of the node's input, whose call is done if something else reads it."""
        if self.uses[node.inputs[0]] > 1:
            slot.call = None
        return slot

    def permute(self, node: nodes.Permute) -> Slot:
        slot, shape, made = self.value(node.inputs[0]), self.known[node.inputs[0]].shape, self.known[node.output].shape
        if slot.kind == BITS and node.axes and node.axes[0]:
            slot = self.calls.as_kind(slot, INTEGER)
        moved = self.calls.move(slot, image_of(made), permuted(shape, node.axes, slot.pixel))
        return self.seen_as(node, moved)

    def repeat(self, node: nodes.Repeat) -> Slot:
        slot, shape, made = self.value(node.inputs[0]), self.known[node.inputs[0]].shape, self.known[node.output].shape
        if slot.kind == BITS and node.times and node.times[0] > 1:
            slot = self.calls.as_kind(slot, INTEGER)
        return self.seen_as(node, self.calls.move(slot, image_of(made), repeated(shape, node.times, slot.pixel)))

    def plain(self, name: str, made: Value, *, coding: Coding | None = None) -> Slot:
        """The value of a name with one unit per element, of the kind that `made` needs; or as bytes of a coding."""
        slot = self.value(name)
        if coding is not None and slot.coding == coding:
            return slot
        return self.calls.as_kind(slot, REAL if not made.exact else INTEGER)

    def shared_coding(self, names: tuple[str, ...]) -> Coding | None:
        """The coding of values that are all bytes and have the same one."""
        codings = {self.slots[name].coding for name in names}
        return codings.pop() if len(codings) == 1 else None

    def concat(self, node: nodes.Concat) -> Slot:
        made = self.known[node.output]
        shape = image_of(made.shape)
        pixels = shape[1] * shape[2]
        coding = self.shared_coding(node.inputs)
        parts = [self.plain(name, made, coding=coding) for name in node.inputs]
        target: Slot | None = None
        before = 0
        for part in parts:
            axes = [Axis(part.shape[0], 1, 1), Axis(pixels, part.shape[0], shape[0])]
            target = self.calls.copy(part, shape, axes, to=before, into=target)
            before += part.shape[0]
        assert target is not None
        return target

    def slice(self, node: nodes.Slice) -> Slot:
        made = self.known[node.output]
        slot, shape = self.plain(node.inputs[0], made, coding=self.shared_coding(node.inputs)), image_of(made.shape)
        source, target = strides(slot.shape, slot.shape[0]), strides(shape, shape[0])
        axes = [Axis(size, step * a, b) for size, step, a, b in zip(shape, node.step, source, target, strict=True)]
        start = sum(first * stride for first, stride in zip(node.start, source, strict=True))
        return self.calls.copy(slot, shape, axes, start=start)

    def pad(self, node: nodes.Pad) -> Slot:
        made = self.known[node.output]
        shape = image_of(made.shape)
        coding = self.shared_coding(node.inputs)
        byte = None if coding is None else coding.byte(node.value)
        slot = self.plain(node.inputs[0], made, coding=None if byte is None else coding)
        constant = node.value if made.exact else int(np.float32(node.value).view(np.int32))
        if slot.kind == BYTES:
            constant = int(np.full(4, byte, np.uint8).view(np.int32)[0])
        canvas = self.calls.emit("fill", (), shape, slot.kind, slot.coding, constant=constant)
        target = strides(shape, shape[0])
        sources = strides(slot.shape, slot.shape[0])
        axes = [Axis(size, a, b) for size, a, b in zip(slot.shape, sources, target, strict=True)]
        to = node.channels[0] + node.padding[0] * target[1] + node.padding[2] * target[2]
        return self.calls.copy(slot, shape, axes, to=to, into=canvas)

    def channels_repeated(self, slot: Slot, times: int) -> Slot:
        """Each channel repeated `times`, as integers or reals."""
        slot = self.calls.as_kind(slot, INTEGER) if slot.kind == BITS else slot
        channels, height, width = slot.shape
        axes = repeated(slot.shape, (times, 1, 1), channels)
        return self.calls.copy(slot, (channels * times, height, width), axes)
