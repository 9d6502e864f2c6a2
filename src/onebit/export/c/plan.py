"""The plan of an exported net: its stages, the memory between them, and the weights."""

from __future__ import annotations

from typing import Any

from onebit.export.c.moves import Moves
from onebit.export.c.pools import Pools, signs_before_pools
from onebit.export.c.products import Products, sums_last
from onebit.native.arena import place
from onebit.packed import PackedNet, nodes


class Planner(Moves, Products, Pools):
    """Plans a net.

    arena_bytes: of the memory for values; constant_bytes: of the weights.
    """

    def __init__(self, net: PackedNet) -> None:
        super().__init__(sums_last(signs_before_pools(net)))
        self.code_input()
        for node in self.net.nodes:
            nodes.by_class(MAKERS, node)(self, node)
            for name in node.inputs:  # only now: what this node reads must outlive a stage that it finishes
                self.uses[name] -= 1
        self.close()
        for name in net.outputs:
            if name in self.stored:  # something else reads it too, or it is a view
                self.give_out(name)
        used: list[Any] = [memory for memory in self.memories if memory.units]
        self.arena_bytes = max(8, place(used, 1))
        self.constant_bytes = sum(array.nbytes for array in self.arrays.values())

    def give_out(self, name: str) -> None:
        """A stage that copies a value to the output."""
        stage = self.begin_pixels("", self.even(name), f"{name} is an output")
        x = self.scratch(4 * stage.channels)
        self.to_output(name)
        stage.head.insert(0, f"value_t *x = {x};")


MAKERS: dict[type, Any] = {
    nodes.Weights: Planner.matmul,
    nodes.Pool: Planner.pool,
    nodes.AdaptiveAveragePool: Planner.adaptive,
    nodes.Affine: Planner.affine,
    nodes.Threshold: Planner.pointwise,
    nodes.Sign: Planner.pointwise,
    nodes.Bounded: Planner.pointwise,
    nodes.Prelu: Planner.pointwise,
    nodes.Quantize: Planner.pointwise,
    nodes.Requantize: Planner.requantize,
    nodes.Add: Planner.combine,
    nodes.Multiply: Planner.combine,
    nodes.Concat: Planner.joined,
    nodes.Pad: Planner.joined,
    nodes.Move: Planner.view,
}
"""How each operation is planned, or those of a base class."""
