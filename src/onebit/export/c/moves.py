"""Stages of operations that move numbers: most of them only look at memory in another way."""

from __future__ import annotations

from math import prod

from onebit.export.c.stages import Stages, index, real
from onebit.export.c.values import STORES, Stored
from onebit.packed import Node, Value, nodes
from onebit.packed.net import INPUT, op_name


class Moves(Stages):
    """The input, and operations that change no number."""

    def code_input(self) -> None:
        spec = self.net.input
        axes = tuple(((size, prod(spec.shape[axis:])),) for axis, size in enumerate(spec.shape, 1))
        form = "floats" if spec.dtype == "float32" else "centered" if spec.coding == "integer" else "bytes"
        limits = {"floats": None, "centered": (-255, 255), "bytes": (0, 255)}[form]
        self.stored[INPUT] = Stored(None, form, 0, axes, limits)
        if spec.mean is not None and spec.std is not None:
            source = self.stored.pop(INPUT)
            stage = self.begin(INPUT, Value(spec.shape, "integer", 255), "the input, standardized")
            self.over_pixels(stage)
            stage.body.append(self.load_pixel(stage, source, "x"))
            mean, std = self.array(INPUT, "mean", spec.mean), self.array(INPUT, "deviation", spec.std)
            stage.body.append(f"standardize(x, {stage.channels}, {mean}, {std});")
            stage.made = Value(spec.shape, "real")

    def view(self, node: Node) -> None:
        (name,) = node.inputs
        stored, shape = self.value(name), self.known[node.output].shape
        made: Stored | None
        if isinstance(node, nodes.Permute):
            made = stored.permuted(node.axes)
        elif isinstance(node, nodes.Repeat):
            made = stored.repeated(node.times)
        elif isinstance(node, nodes.Slice):
            made = stored.sliced(node.start, node.stop, node.step)
            if made is None:
                made = self.copied(stored, name).sliced(node.start, node.stop, node.step)
        else:
            made = stored.reshaped(shape)
            if made is None:  # in the order of the value
                made = self.copied(stored, name, shape=(prod(shape),)).reshaped(shape)
        assert made is not None
        self.stored[node.output] = made

    def joined(self, node: nodes.Concat | nodes.Pad) -> None:
        """A value that is copied together from others."""
        made = self.known[node.output]
        sources = [self.value(name) for name in node.inputs]
        stage, target = self.begin_whole(made, f"{node.output}: {op_name(node)}")
        steps = target.steps()
        assert steps is not None
        first = 0
        if isinstance(node, nodes.Pad):
            self.over_pixels(stage)
            stage.head.insert(0, f"value_t *x = {self.scratch(stage, 4 * stage.channels)};")
            filled = f"fill(x, {stage.channels}, {node.value});"
            if made.bound is None:
                filled = f"fill_real(x, {stage.channels}, {real(node.value)});"
            at = index(0, [(v, s * stage.channels) for v, s in stage.pixel])
            lines = [filled, f"{STORES[target.form]}(x, {stage.channels}, {self.pointer(target, stage)}, {at}, 1);"]
            if stage.pixels > 1:
                lines = [f"for (int32_t p = 0; p < {stage.pixels}; p++) {{", *lines, "}"]
            stage.body += lines
            stage.loops = []
            first = node.channels[0] * steps[0] + node.padding[0] * steps[1] + node.padding[2] * steps[2]
        for source in sources:
            self.copy(stage, source, target, target.axes, first)
            first += source.shape[0] * steps[0]
        self.stored[node.output] = target
