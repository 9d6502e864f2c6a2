"""The plan of an exported net: its stages, the memory between them, and the weights.

Most operations that move numbers need no stage: their result is a view of the same memory.
"""

from __future__ import annotations

from math import prod
from typing import Any

from onebit.export.c.pools import Pools, signs_before_pools
from onebit.export.c.products import Products, sums_last
from onebit.export.c.values import Stored
from onebit.native.arena import assign_offsets
from onebit.packed import InputSpec, PackedNet, Value, nodes
from onebit.packed.net import op_name


class Planner(Products, Pools):
    """Plans a net.

    arena_bytes: size of the memory for values; constant_bytes: size of the weights.
    """

    def __init__(self, net: PackedNet) -> None:
        super().__init__(sums_last(signs_before_pools(net)))
        for name, spec in self.net.inputs.items():
            self.code_input(name, spec)
        for node in self.net.nodes:
            self.planned = node.output
            nodes.by_class(MAKERS, node)(self, node)
            for name in node.inputs:  # not before: a stage that this node finishes must not overwrite its inputs
                self.uses[name] -= 1
        self.close()
        for name in net.outputs:
            if name in self.stored:  # another node reads it, or it is a view
                self.give_out(name)
        used: list[Any] = [memory for memory in self.memories if memory.units]
        self.arena_bytes = max(8, assign_offsets(used, 1))
        self.constant_bytes = sum(array.nbytes for array in self.arrays.values())

    def give_out(self, name: str) -> None:
        """Add a stage that copies a value to the output."""
        stage = self.begin_pixels("", self.even(name), f"{name} is an output")
        x = self.scratch(4 * stage.channels)
        self.to_output(name)
        stage.head.insert(0, f"value_t *x = {x};")

    def code_input(self, name: str, spec: InputSpec) -> None:
        self.planned = name
        axes = tuple(((size, prod(spec.shape[axis:])),) for axis, size in enumerate(spec.shape, 1))
        form = "floats" if spec.dtype == "float32" else "centered" if spec.coding == "integer" else "bytes"
        limits = {"floats": None, "centered": (-255, 255), "bytes": (0, 255)}[form]
        source = Stored(None, form, self.input_offsets[name], axes, limits)
        if spec.mean is None or spec.std is None:
            self.stored[name] = source
            return
        stage = self.begin_pixels(name, source, f"{name}, standardized")
        mean, std = self.array("mean", spec.mean), self.array("deviation", spec.std)
        self.line(f"standardize(x, {stage.channels}, {mean}, {std});")
        stage.current = Value(spec.shape, "real")

    def view(self, node: nodes.Move) -> None:
        (name,) = node.inputs
        stored, view = self.value(name), node.view(self.values[name])
        made = stored.seen(view) or self.copied(stored, name, ordered=True).seen(view)
        assert made is not None
        self.stored[node.output] = made

    def joined(self, node: nodes.Concat | nodes.Pad) -> None:
        """Add a stage that copies other values into a new one."""
        made = self.values[node.output]
        sources = [self.value(name) for name in node.inputs]
        target = self.begin_whole(made, f"{node.output}: {op_name(node)}")
        stage, steps, first = self.stage, target.steps(), 0
        assert steps is not None
        if isinstance(node, nodes.Pad):
            self.loop_over_pixels()
            stage.head.insert(0, f"value_t *x = {self.scratch(4 * stage.channels)};")
            self.line(self.fill(node.value, exact=made.exact))
            self.store_pixel(target)
            if stage.pixels > 1:
                stage.body = [f"for (int32_t p = 0; p < {stage.pixels}; p++) {{", *stage.body, "}"]
            stage.loops = []
            first = node.channels[0] * steps[0] + node.padding[0] * steps[1] + node.padding[2] * steps[2]
        for source in sources:
            self.copy(source, target, target.axes, first)
            first += source.shape[0] * steps[0]
        self.stored[node.output] = target

    def take(self, node: nodes.Take) -> None:
        """Add a stage that copies runs of indices."""
        (name,), axis = node.inputs, node.axis
        source = self.even(name, axes=True)
        target = self.begin_whole(self.values[node.output], f"{node.output}: take")
        first, ((_, step),) = 0, target.axes[axis]
        for view in node.views(self.values[name]):
            part = source.seen(view)
            assert part is not None
            self.copy(part, target, target.axes, first)
            first += part.shape[axis] * step
        self.stored[node.output] = target


MAKERS: dict[type, Any] = {
    nodes.Weights: Planner.matmul,
    nodes.Pool: Planner.pool,
    nodes.AdaptiveAveragePool: Planner.adaptive,
    nodes.Affine: Planner.affine,
    nodes.Threshold: Planner.pointwise,
    nodes.Sign: Planner.pointwise,
    nodes.Bounded: Planner.pointwise,
    nodes.Activation: Planner.pointwise,
    nodes.Prelu: Planner.pointwise,
    nodes.Quantize: Planner.pointwise,
    nodes.Requantize: Planner.requantize,
    nodes.Add: Planner.combine,
    nodes.Multiply: Planner.combine,
    nodes.Concat: Planner.joined,
    nodes.Pad: Planner.joined,
    nodes.Take: Planner.take,
    nodes.Move: Planner.view,
}
"""Operation, or base class of operations -> the method that plans it."""
