"""The values of a plan by the names of their nodes, and the nodes that only move elements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from onebit.native.abi import AXES
from onebit.native.kernel_calls import BITS, BYTES, CENTERED, INTEGER, REAL, UNSIGNED, KernelCalls, Slot
from onebit.native.layout import Axis, image_of, strides
from onebit.packed import InputSpec, OneBitWeights, PackedNet, Value, nodes
from onebit.packed.grid import GRID_BITS
from onebit.packed.nodes.view import View, joined


class Values(KernelCalls):
    """The values so far, in `slots`.

    known: shape and kind of every value of the net. uses: number of nodes and outputs that read it. images: the coded
    inputs. views: moves that nothing has read yet: the value that has the elements, which they are, and whether nothing
    else reads it.
    """

    def __init__(self, net: PackedNet) -> None:
        super().__init__()
        self.net = net
        self.known = net.values
        self.uses = Counter([*net.outputs, *(name for node in net.nodes for name in node.inputs)])
        self.images = {name: self._coded(spec) for name, spec in net.inputs.items()}
        self.slots = {**self.images}
        self.views: dict[str, tuple[str, View, bool]] = {}

    def _coded(self, spec: InputSpec) -> Slot:
        coding = {"integer": CENTERED, "values": UNSIGNED}[spec.coding] if spec.value.exact else None
        image = Slot(image_of(spec.shape), REAL if coding is None else BYTES, self.buffer(), coding=coding)
        image.buffer.units = image.units
        return image

    def value(self, name: str, *, flat: bool = False) -> Slot:
        """The value of a name; a flattened one is reordered first, unless `flat`."""
        if name in self.views:
            self.slots[name] = self._moved(name, *self.views.pop(name))
        slot = self.slots[name]
        if flat or not slot.flat:
            return slot
        if "ordered" not in slot.kinds:
            slot.kinds["ordered"] = self.image_order(self.unpacked(slot))
        return slot.kinds["ordered"]

    def view(self, node: nodes.Move) -> None:
        """A move: several of them become one copy, when the value is read."""
        (name,) = node.inputs
        view = node.view(self.known[name])
        source, before, alone = self.views.get(name, (name, View.of(self.known[name].shape), True))
        through = view.through(chain(*before.axes))
        if through is None or sum(map(len, through.axes)) > AXES - 1:  # a slot adds one
            source, alone = name, True
        else:
            view = through._replace(offset=through.offset + before.offset)
        self.views[node.output] = source, view, alone and self.uses[name] == 1

    def _moved(self, name: str, source: str, view: View, alone: bool) -> Slot:
        """The elements of a value in another order: in the same memory if they are in order there, else a copy."""
        made, slot, view = self.known[name].shape, self.value(source), view.flat()
        channels, *pixels = slot.shape
        all_in_order = view == View.of(made).flat() and prod(made) == prod(self.known[source].shape)
        if len(made) == 1 and all_in_order and pixels != [1, 1] and (channels > 1 or slot.kind == BITS):
            return slot.seen_as(slot.shape, flat=True)  # a dense layer reorders its weights instead
        if view.axes[0] != joined([(channels, prod(pixels))]):  # bits stay in words if the channels stay
            slot = self.unpacked(slot)
        if not alone:  # the others read it without the operations that follow
            slot = slot.seen_as(slot.shape)
        shape = image_of(made)
        slot, axes, start = self.copied(slot, view, (1, slot.pixel if slot.kind == BITS else shape[0]))
        return self.move(slot, shape, axes, start)

    def copied(self, slot: Slot, view: View, steps: Sequence[int]) -> tuple[Slot, list[Axis], int]:
        """The copy of a view to axes with `steps`: what it reads, `slot` or a vector made of it, its axes and start."""
        if slot.kind == BITS:  # words in place of channels
            channels = tuple((slot.pixel, step) for _, step in view.axes[0])
            view = view._replace(axes=(channels, *view.axes[1:]))
        sizes = slot.pixel, *slot.shape[1:]
        if (seen := view.through(zip(sizes, strides(sizes), strict=True))) is None:
            return self.copied(self.image_order(slot), view, steps)
        axes = []
        for parts, target in zip(seen.axes, steps, strict=True):
            for size, source in reversed(parts):
                axes.append(Axis(size, source, target))
                target *= size
        return slot, axes, seen.offset

    def plain(self, name: str, made: Value, *, coded: bool = False) -> Slot:
        """The value of a name with one unit per element, in the kind that `made` needs; bytes stay if `coded`."""
        slot = self.value(name)
        return slot if coded and slot.kind == BYTES else self.as_kind(slot, INTEGER if made.exact else REAL)

    def concat(self, node: nodes.Concat) -> Slot:
        made = self.known[node.output]
        shape = image_of(made.shape)
        coded = len({self.value(name).coding for name in node.inputs}) == 1
        target: Any = None
        before = 0
        for part in [self.plain(name, made, coded=coded) for name in node.inputs]:
            axes = [Axis(part.shape[0], 1, 1), Axis(shape[1] * shape[2], part.shape[0], shape[0])]
            target = self.copy(part, shape, axes, to=before, into=target)
            before += part.shape[0]
        return target

    def take(self, node: nodes.Take) -> Slot:
        """One copy for each run of indices; bits stay in words if the channels stay the same."""
        (name,), shape = node.inputs, image_of(self.known[node.output].shape)
        slot = self.value(name) if node.axis else self.unpacked(self.value(name))
        steps = strides((slot.pixel if node.axis else shape[0], *shape[1:]))
        target: Any = None
        to = 0
        for view in node.views(self.known[name]):
            slot, axes, start = self.copied(slot, view, steps)
            target = self.copy(slot, shape, axes, from_=start, to=to, into=target)
            ((size, _),) = view.axes[node.axis]
            to += size * steps[node.axis]
        return target

    def pad(self, node: nodes.Pad) -> Slot:
        made = self.known[node.output]
        shape = image_of(made.shape)
        coding = self.value(node.inputs[0]).coding
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
        axes = [Axis(slot.size, 1, times), Axis(times, 0, 1)]
        return self.copy(slot, (channels * times, height, width), axes)

    def integers(self, node: Any, slot: Slot) -> Slot:
        """The inputs of a product as integers: real values are rounded to their grid."""
        bound = self.known[node.inputs[0]].bound
        if slot.kind != REAL:
            slot = self.as_kind(slot, INTEGER)
        beyond = not isinstance(node, OneBitWeights) and bound is not None and bound > 2**GRID_BITS
        if slot.kind == INTEGER and not beyond:
            return slot
        return self.on_grid(slot, abs(getattr(node, "padding_value", 0)))

    def on_grid(self, slot: Slot, padded: int = 0) -> Slot:
        """Integers and the unit of their grid, which includes a border of `padded`."""
        slot, key = self.as_kind(slot, REAL), f"grid {padded}"
        if key not in slot.kinds:
            slot.kinds[key] = self.emit("grid", (slot,), slot.shape, INTEGER, constant=padded)
        return slot.kinds[key]
