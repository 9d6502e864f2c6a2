"""Operations on single numbers: epilogues of the calls that make their inputs, or calls of their own."""

from __future__ import annotations

import numpy as np

from onebit.native.abi import EPILOGUE_KERNELS
from onebit.native.kernel_calls import BITS, BYTES, INTEGER, KernelCall, Operation, Slot
from onebit.native.layout import NotPlanned
from onebit.native.values import Values
from onebit.packed import Node, nodes
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.nodes.rounding import EXACT_LIMIT

_MOST_INPUTS = 1000  # of a sum that is rounded: bytes without their zeros add less than 2⁴⁰ each, and 2⁵³ is exact


class Pointwise(Values):
    """Values, and the operations that a kernel call can end with."""

    def open_epilogue(self, name: str, *, signs: bool) -> Slot:
        """A value whose call can take another epilogue operation because nothing else reads it; else a new call.

        With `signs`, the operation writes words of bits, which two groups of a convolution must not share.
        """
        slot, call = self.value(name), self.open_call(name)
        shared = call is not None and call.fields.get("groups", 1) > 1 and call.fields["outputs"] % 32
        if call is not None and call is self.calls.list[-1] and not (signs and shared):
            return slot
        return self.calls.emit("pointwise", (slot,), slot.shape, INTEGER if slot.kind == BYTES else slot.kind)

    def open_call(self, name: str) -> KernelCall | None:
        """The call that makes a value, if its epilogue can go on."""
        slot = self.value(name)
        if self.uses[name] > 1 or slot.kinds or slot.call is None or slot.call.closed:
            return None
        return slot.call if slot.call.kernel in EPILOGUE_KERNELS else None

    def unpack(self, name: str) -> None:
        """Bits become integers."""
        if self.value(name).kind == BITS:
            self.slots[name] = self.calls.as_kind(self.value(name), INTEGER)

    def requantize(self, node: nodes.Requantize) -> Slot:
        """The epilogue of the sums among the inputs that nothing else reads; the other inputs are read there."""
        if (node.reach(*(self.known[name] for name in node.inputs)) >= EXACT_LIMIT).any():
            raise NotPlanned("multipliers with which sums may reach 2^52")
        if len(node.inputs) > _MOST_INPUTS:
            raise NotPlanned("a sum of too many values")
        scale = np.ldexp(node.multiplier.astype(np.float64), -node.right_shift)
        offset = np.ldexp(node.offset.astype(np.float64), -node.right_shift)
        for name in node.inputs:
            self.unpack(name)
        calls = [self.open_call(name) if self.value(name).kind == INTEGER else None for name in node.inputs]
        first = next((k for k, call in enumerate(calls) if call is not None), 0)
        if (call := calls[first]) is not None:
            self.calls.to_end(call)
        slot = self.open_epilogue(node.inputs[first], signs=False)
        order = [first, *(k for k in range(len(node.inputs)) if k != first)]
        more = tuple(self.value(node.inputs[k]) for k in order[1:])
        scale = scale[order]
        for k, coding in enumerate((other.coding for other in more), start=1):
            if coding is not None:  # factor · byte − zero
                offset = offset - coding.zero * scale[k]
                scale[k] *= coding.factor
        operation = Operation("requantize", scale, offset, more, node.least, node.most)
        self.calls.then_integers(slot, operation)
        return slot

    def quantize(self, node: nodes.Quantize) -> Slot:
        (name,) = node.inputs
        self.unpack(name)
        slot = self.open_epilogue(name, signs=False)
        if slot.kind == INTEGER:
            self.calls.then(slot, "real")
        self.calls.then_integers(slot, Operation("quantize", least=node.least, most=node.most))
        return slot

    def pointwise(self, node: Node) -> Slot:
        (name,) = node.inputs
        self.unpack(name)
        slot = self.open_epilogue(name, signs=isinstance(node, (nodes.Threshold, nodes.Sign)))
        exact = slot.kind == INTEGER
        if isinstance(node, nodes.Threshold):
            flip = np.where(node.direction > 0, 0, -1).astype(np.int32)  # x <= t where -1 - x >= -1 - t
            self.calls.then_sign(slot, "threshold", node.threshold ^ flip, flip)
        elif isinstance(node, nodes.Affine):
            if exact or (node.scale is not None and node.shift is not None):
                self.calls.then(slot, "affine_int" if exact else "affine", node.scale, node.shift)
            elif node.scale is not None:  # in float32: a single product or sum has the same bits
                self.calls.then(slot, "scale", node.scale)
            else:
                self.calls.then(slot, "shift", node.shift)
        elif isinstance(node, nodes.Relu):
            self.calls.then(slot, "relu_int" if exact else "relu")
        elif isinstance(node, nodes.Hardtanh):
            self.calls.then(slot, "hardtanh_int" if exact else "hardtanh")
        else:
            if exact:
                self.calls.then(slot, "real")
            if isinstance(node, nodes.Bounded):
                self.calls.then(slot, "clamp", *(np.full(1, bound, np.float32) for bound in node.bounds))
            elif isinstance(node, nodes.Prelu):
                self.calls.then(slot, "prelu", node.slope)
            else:
                assert isinstance(node, nodes.Sign)
                if (self.known[name].bound or 0) > FLOAT32_EXACT:
                    raise NotPlanned("signs of integers beyond float32")
                self.calls.then_sign(slot, "sign", node.shift)
        return slot
