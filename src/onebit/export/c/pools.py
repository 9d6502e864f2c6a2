"""Stages of pools."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from onebit.errors import UsageError
from onebit.export.c.stages import Stages, index, real
from onebit.export.c.values import LOADS
from onebit.packed import Node, PackedNet, Value, nodes
from onebit.packed.net import only_readers
from onebit.packed.nodes.node import INT32


class Pools(Stages):
    """Maxima, sums and averages of windows."""

    def pool(self, node: nodes.Pool) -> None:
        (name,) = node.inputs
        made, source = self.values[node.output], self.even(name, axes=True)
        exact, largest = source.bound is not None, isinstance(node, nodes.MaxPool)
        value = replace(source.value, shape=made.shape)
        if isinstance(node, nodes.AveragePool) and exact:
            least, most = (prod(node.kernel) * limit for limit in source.limits or ())
            # windows at the border have fewer pixels
            value = Value(made.shape, "integer", max(-least, most), min(0, least), max(0, most))
            if max(-least, most) > INT32.max:
                raise UsageError(f"--to c sums integers in 32 bits, which {node.output!r} may exceed")
        stage = self.begin(node.output, value, self.title(node))
        stage.keeps.append(source)
        self.window(node, source, stage.channels)
        self.second(stage.channels)
        if not largest:
            self.line(self.fill(0, exact=exact))
        kernel = ("larger" if largest else "add") + "_integers" * exact
        given = f"{LOADS[source.form]}, {self.pointer(source)}, {source.first}, i, j, {kernel}, {int(not largest)}"
        self.line(f"pool(&window, {given}, x, y);")
        if largest and not exact:
            self.line(f"no_negative_zero(x, {stage.channels});")
        if isinstance(node, nodes.AveragePool) and not node.sums:
            self.as_real()
            by = node.pixels(self.values[name])
            divisor = real(by.flat[0])
            if (by != by.flat[0]).any():
                array = self.array("divisors", by.astype(np.float32))
                divisor = f"{array}[{index(0, stage.pixel)}]"
            self.line(f"divide(x, {stage.channels}, {divisor});")
        stage.current = made

    def adaptive(self, node: nodes.AdaptiveAveragePool) -> None:
        (name,) = node.inputs
        made, source = self.values[node.output], self.even(name, axes=True)
        stage = self.begin(node.output, made, self.title(node))
        stage.keeps.append(source)
        self.loop_over_windows()
        spans = []
        for v, size, count in zip("ij", source.shape[1:], node.size, strict=True):
            ends = [f"{v} * {size} / {count}", f"(({v} + 1) * {size} + {count - 1}) / {count}"]
            spans += ["0", str(size)] if count == 1 else ends
        # replaces the declarations of `i` and `j`, which no expression uses for a single row or column
        stage.head = [f"static const int32_t steps[3] = {{{', '.join(map(str, source.steps() or ()))}}};"]
        kernel = "average" if source.bound is None else "average_integers"
        given = f"{LOADS[source.form]}, {self.pointer(source)}, {source.first}, steps, {stage.channels}"
        self.line(f"{kernel}({given}, {', '.join(spans)}, x);")


def signs_before_pools(net: PackedNet) -> PackedNet:
    """The same net with pools of signs in place of signs of pools: signs take less memory.

    Rising thresholds commute with the maximum: max(x) >= t where some x >= t. So does the sign of reals, unless one is
    NaN, which requires a float32 input.
    """
    alone = only_readers(net)
    changed: dict[str, Node] = {}
    for pool in net.nodes:
        sign = alone.get(pool.output)
        numbers = all(spec.dtype != "float32" for spec in net.inputs.values()) or net.values[pool.output].exact
        rising = isinstance(sign, nodes.Threshold) and (sign.direction > 0).all()
        if isinstance(pool, nodes.MaxPool) and sign and (rising or (isinstance(sign, nodes.Sign) and numbers)):
            changed[pool.output] = replace(sign, inputs=pool.inputs, output=pool.output)
            changed[sign.output] = replace(pool, inputs=(pool.output,), output=sign.output)
    return replace(net, nodes=tuple(changed.get(node.output, node) for node in net.nodes)) if changed else net
