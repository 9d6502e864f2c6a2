"""Stages of pools."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from onebit.errors import UsageError
from onebit.export.c.stages import Stages, index, real, title
from onebit.export.c.values import LOADS
from onebit.packed import Node, PackedNet, Value, nodes
from onebit.packed.net import readers
from onebit.packed.nodes.node import INT32


class Pools(Stages):
    """Maxima, sums and averages of windows."""

    def pool(self, node: nodes.MaxPool | nodes.AveragePool) -> None:
        (name,) = node.inputs
        made, source = self.known[node.output], self.evenly(name)
        exact, largest = source.bound is not None, isinstance(node, nodes.MaxPool)
        value = source.described("integer" if exact else "real", made.shape)
        if isinstance(node, nodes.AveragePool) and exact:
            least, most = (prod(node.kernel) * limit for limit in source.limits or ())
            # windows over the border have fewer pixels
            value = Value(made.shape, "integer", max(-least, most), min(0, least), max(0, most))
            if max(-least, most) > INT32.max:
                raise UsageError(
                    f"--to c takes averages of integers whose sums fit 32 bits; those of {node.output!r} do not"
                )
        stage = self.begin(node.output, value, title(node, self.known[name], made))
        stage.keeps.append(source)
        self.window(stage, node, source, stage.channels)
        self.second(stage, stage.channels)
        if not largest:
            zero = f"fill(x, {stage.channels}, 0);" if exact else f"fill_real(x, {stage.channels}, {real(0)});"
            stage.body.append(zero)
        kernel = ("larger" if largest else "add") + "_integers" * exact
        pointer = self.pointer(source, stage)
        stage.body.append(
            f"pool(&window, {LOADS[source.form]}, {pointer}, {source.first}, i, j, {kernel}, {int(not largest)}, x, y);"
        )
        if largest and not exact:
            stage.body.append(f"no_negative_zero(x, {stage.channels});")
        if isinstance(node, nodes.AveragePool) and not node.sums:
            self.as_real(stage)
            by = node.pixels(self.known[name])
            if (by == by.flat[0]).all():
                stage.body.append(f"divide(x, {stage.channels}, {real(by.flat[0])});")
            else:
                array = self.array(node.output, "divisors", by.astype(np.float32))
                stage.body.append(f"divide(x, {stage.channels}, {array}[{index(0, stage.pixel)}]);")
        stage.made = made

    def adaptive(self, node: nodes.AdaptiveAveragePool) -> None:
        (name,) = node.inputs
        made, source = self.known[node.output], self.evenly(name)
        stage = self.begin(node.output, made, title(node, self.known[name], made))
        stage.keeps.append(source)
        self.over_places(stage)
        _, height, width = source.shape
        spans = []
        for v, size, count in (("i", height, node.size[0]), ("j", width, node.size[1])):
            ends = [f"{v} * {size} / {count}", f"(({v} + 1) * {size} + {count - 1}) / {count}"]
            spans += ["0", str(size)] if count == 1 else ends
        stage.head.clear()  # `i` and `j` of one row or column are in no expression
        kernel = "average" if source.bound is None else "average_integers"
        stage.head.append(f"static const int32_t steps[3] = {{{', '.join(map(str, source.steps() or ()))}}};")
        stage.body.append(
            f"{kernel}({LOADS[source.form]}, {self.pointer(source, stage)}, {source.first}, steps, {stage.channels}, "
            f"{', '.join(spans)}, x);"
        )


def signs_before_pools(net: PackedNet) -> PackedNet:
    """The same net with pools of signs in place of signs of pools, which take a small part of the memory.

    Rising thresholds commute with the maximum: max(x) >= t where some x >= t. A sign of reals does so unless one of
    them is NaN, which only a float32 input brings.
    """
    known = net.values
    reads = readers(net)
    changed: dict[str, Node] = {}
    for pool in net.nodes:
        only = reads[pool.output]
        if not isinstance(pool, nodes.MaxPool) or len(only) != 1 or pool.output in net.outputs:
            continue
        (sign,) = only
        numbers = net.input.dtype != "float32" or known[pool.output].exact
        rising = isinstance(sign, nodes.Threshold) and (sign.direction > 0).all()
        if rising or (isinstance(sign, nodes.Sign) and numbers):
            changed[pool.output] = replace(sign, inputs=pool.inputs, output=pool.output)
            changed[sign.output] = replace(pool, inputs=(pool.output,), output=sign.output)
    return replace(net, nodes=tuple(changed.get(node.output, node) for node in net.nodes)) if changed else net
