"""Elementwise operations: epilogues of the calls that compute their inputs, or separate calls."""

from __future__ import annotations

import numpy as np

from onebit.native.abi import EPILOGUE_KERNELS
from onebit.native.kernel_calls import BITS, BYTES, INTEGER, KernelCall, Slot
from onebit.native.layout import NotPlanned
from onebit.native.values import Values
from onebit.packed import Node, nodes
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import op_name
from onebit.packed.nodes.rounding import EXACT_LIMIT

_MAX_INPUTS = 1000  # of a rounded sum: the zero of a byte adds less than 2⁴⁰, and float64 is exact up to 2⁵³


class Pointwise(Values):
    """Values, and the operations at the end of a kernel call."""

    def open_epilogue(self, name: str, *, signs: bool) -> Slot:
        """A value whose call can take another operation because nothing else reads it; else the value of a new call.

        signs: the operation writes words of bits, which two groups of a convolution must not share.
        """
        slot, call = self.value(name), self.open_call(name)
        shared = call is not None and call.fields.get("groups", 1) > 1 and call.fields.get("outputs", 0) % 32
        if call is not None and call is self.calls[-1] and not (signs and shared):
            return slot
        return self.emit("pointwise", (slot,), slot.shape, INTEGER if slot.kind == BYTES else slot.kind)

    def open_call(self, name: str) -> KernelCall | None:
        """The call that computes a value, if its epilogue can be extended."""
        slot = self.value(name)
        if self.uses[name] > 1 or slot.kinds or slot.kind in (BITS, BYTES) or slot.call is None:
            return None
        return slot.call if slot.call.kernel in EPILOGUE_KERNELS else None

    def unpack(self, name: str) -> None:
        """Replace bits by integers."""
        if self.value(name).kind == BITS:
            self.slots[name] = self.as_kind(self.value(name), INTEGER)

    def requantize(self, node: nodes.Requantize) -> Slot:
        """Extends the epilogue of an input that nothing else reads; it reads the other inputs."""
        if (node.reach(*(self.known[name] for name in node.inputs)) >= EXACT_LIMIT).any():
            raise NotPlanned("multipliers with which sums may reach 2^52")
        if len(node.inputs) > _MAX_INPUTS:
            raise NotPlanned("a sum of too many values")
        scale = np.ldexp(node.multiplier.astype(np.float64), -node.right_shift)
        offset = np.ldexp(node.offset.astype(np.float64), -node.right_shift)
        for name in node.inputs:
            self.unpack(name)
        calls = [self.open_call(name) if self.value(name).kind == INTEGER else None for name in node.inputs]
        first = next((k for k, call in enumerate(calls) if call is not None), 0)
        if (call := calls[first]) is not None:
            self.calls.remove(call)  # nothing reads its value before the last of the inputs is there
            self.calls.append(call)
        slot = self.open_epilogue(node.inputs[first], signs=False)
        order = [first, *(k for k in range(len(node.inputs)) if k != first)]
        more = tuple(self.value(node.inputs[k]) for k in order[1:])
        scale = scale[order]
        for k, coding in enumerate((other.coding for other in more), start=1):
            if coding is not None:  # factor · byte − zero
                offset = offset - coding.zero * scale[k]
                scale[k] *= coding.factor
        slot.then("requantize", scale, offset, more=more, least=node.least, most=node.most)
        return slot

    def pointwise(self, node: Node) -> Slot:
        (name,) = node.inputs
        self.unpack(name)
        slot = self.open_epilogue(name, signs=isinstance(node, (nodes.Threshold, nodes.Sign)))
        integer = "_int" if slot.kind == INTEGER else ""
        match node:
            case nodes.Threshold():
                flip = np.where(node.direction > 0, 0, -1).astype(np.int32)  # x <= t where -1 - x >= -1 - t
                slot.then("threshold", node.threshold ^ flip, flip)
            case nodes.Affine() if node.scale is None and node.shift is None:  # the value itself, as a real one
                if integer:
                    slot.then("real")
            case nodes.Affine() if integer or (node.scale is not None and node.shift is not None):
                slot.then(f"affine{integer}", node.scale, node.shift)
            case nodes.Affine():  # in float32: a single product or sum has the same bits
                slot.then(*(("scale", node.scale) if node.shift is None else ("shift", node.shift)))
            case nodes.Relu():
                slot.then(f"relu{integer}")
            case nodes.Hardtanh():
                slot.then(f"hardtanh{integer}")
            case _:
                if integer:
                    slot.then("real")
                if isinstance(node, nodes.Bounded):
                    slot.then("clamp", *(np.full(1, bound, np.float32) for bound in node.bounds))
                elif isinstance(node, nodes.Quantize):
                    slot.then("quantize", least=node.least, most=node.most)
                elif isinstance(node, nodes.Activation):
                    slot.then(op_name(node))
                elif isinstance(node, nodes.Prelu):
                    slot.then("prelu", node.slope)
                else:
                    assert isinstance(node, nodes.Sign)
                    if (self.known[name].bound or 0) > FLOAT32_EXACT:
                        raise NotPlanned("signs of integers beyond float32")
                    slot.then("sign", node.shift)
        return slot
