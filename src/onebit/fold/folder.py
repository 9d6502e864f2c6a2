"""`Folder` walks over a traced graph: each operation is looked up in a table and appends nodes to the packed net."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onebit.errors import FoldError, FormatError, NotBinaryError
from onebit.fold.chain import Chain, FoldedOp, Pending
from onebit.fold.trace import module_path, target_name
from onebit.fold.value_range import range_of
from onebit.layers import BinaryLayer, InputCoding
from onebit.packed import Affine, AveragePool, Flatten, InputSpec, MaxPool, Node, PackedNet, Sign, Threshold, Value
from onebit.packed.net import INPUT
from onebit.quantizers import BinaryInput, BinaryWeight, Quantizer


class SignSite(NamedTuple):
    """A place where a net takes signs.

    value: name of the threshold or sign in the packed net.
    compared: name of the packed value to compare with torch's signs: after pools that torch computes before its sign.
    module: path of the torch module that takes the same signs.
    call: index of its call, as a module may be called several times.
    chain: what the threshold replaces; None if the packed net takes the sign of a real value.
    """

    value: str
    compared: str
    module: str
    call: int
    chain: Chain | None


class Folded(NamedTuple):
    """A packed net, and where it takes signs."""

    net: PackedNet
    signs: tuple[SignSite, ...]


class Call(NamedTuple):
    """One operation of the model.

    name: name of its value; for a layer, its path.
    module: the layer, None for a function or method.
    node: node of the traced graph, None for the input quantizer of a layer.
    path: path of the layer, if it differs from `name`.
    """

    name: str
    module: Any = None
    node: fx.Node | None = None
    path: str = ""

    def argument(self, position: int, keyword: str, default: Any) -> Any:
        """The attribute of a layer, or the argument of a function."""
        if self.node is None or self.module is not None:
            return getattr(self.module, keyword, default)
        arguments = self.node.args
        return arguments[position] if len(arguments) > position else self.node.kwargs.get(keyword, default)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of its first input and its output for the example, with the batch axis."""
        assert self.node is not None
        before, after = self.node.all_input_nodes[0].meta["value"], self.node.meta["value"]
        return tuple(before.shape), tuple(after.shape)

    def refusal(self, reason: str) -> FoldError:
        """The error that names this operation."""
        what = target_name(self.node) if self.node is not None and self.module is None else type(self.module).__name__
        return FoldError(f"cannot pack {what} ({self.path or self.name!r}): {reason}")


Operation = Callable[..., Pending]
"""(folder, call, *inputs) -> output."""


class Folder:
    """Builds the packed net of one model, which is in eval mode on the CPU.

    Args:
        shape: (C, H, W) of an image.
        shipped: the binary weights of each binary layer.
        table: the operation for each layer class, function and method name.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        shipped: Mapping[nn.Module, BinaryWeight],
        table: Mapping[Any, Operation],
    ) -> None:
        self.model = model
        self.shape = shape
        self.shipped = shipped
        self.table = table
        self.coding: InputCoding | None = None
        self.input: InputSpec | None = None
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.ranges: dict[str, range] = {}
        """The possible integers of each exact value (or a superset), spread evenly around 0."""
        self._signs: list[SignSite] = []
        self._calls: Counter[nn.Module] = Counter()
        self._written: dict[Pending, str] = {}
        self._signed: dict[tuple[Pending, nn.Module | None], str] = {}

    def fold(self, graph: fx.Graph) -> Folded:
        """The packed net of a graph from `trace`."""
        made: dict[fx.Node, Pending] = {}
        output = ""
        for node in graph.nodes:
            if node.op == "placeholder":
                made[node] = Pending(INPUT)
            elif node.op == "output":
                answer = node.args[0]
                if not isinstance(answer, fx.Node):
                    raise FoldError(f"the model returns a {type(answer).__name__}, expected one tensor: the logits")
                output = self.write(made[answer])
            else:
                call = Call(node.name, node=node)
                if node.op == "call_module":
                    path = module_path(node)
                    call = Call(path, self.model.get_submodule(path), node)
                made[node] = self.apply(call, *(made[source] for source in node.all_input_nodes))
        assert self.input is not None  # in a traced graph only InputCoding reads the image
        try:
            net = PackedNet(input=self.input, nodes=tuple(self.nodes), output=output)
        except FormatError as error:
            raise FoldError(f"the model cannot be packed: {error}") from None
        return Folded(net, tuple(self._signs))

    def apply(self, call: Call, *inputs: Pending) -> Pending:
        """The value of one operation; FoldError if it is not in the table or not possible in a packed net."""
        node, module = call.node, call.module
        kinds = self._kinds(module) if node is None or module is not None else [node.target]
        if not kinds or kinds[0] not in self.table:
            known = ", ".join(kind.__name__ for kind in self.table if isinstance(kind, type))
            raise call.refusal(f"known layers are {known}; use those, or move it out of the model")
        if module is not None and any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
            raise call.refusal("it has forward hooks, which a packed net does not run; remove them")
        if node is not None:
            if not node.users:
                raise call.refusal("its result is never used; remove it from forward")
            if _in_place(node, module) and len(node.all_input_nodes[0].users) > 1:
                raise call.refusal("it overwrites a value that is also used elsewhere; use inplace=False")
        return self.table[kinds[0]](self, call, *inputs)

    def is_leaf(self, module: nn.Module) -> bool:
        """Whether a module is one operation, including unknown quantizers, so that the error names them."""
        return isinstance(module, (BinaryLayer, Quantizer)) or bool(self._kinds(module))

    def _kinds(self, module: nn.Module) -> list[type]:
        """The classes of a module that are in the table; none for a subclass that overrides `forward`."""
        cls = type(module)
        if isinstance(module, Quantizer):
            return [] if module.binary_input() is None else [Quantizer]
        return [kind for kind in cls.__mro__ if kind in self.table and getattr(kind, "forward", None) is cls.forward]

    def emit(self, kind: type[Node], name: str, *sources: str, **fields: Any) -> str:
        """Append a node; returns the name of its value, `name` or a similar free one. FoldError for wrong inputs."""
        output = base = re.sub(r"[^A-Za-z0-9_.-]", "_", name[-90:]).lstrip(".-") or "value"
        count = 1
        while output in self.values or output == INPUT:
            count += 1
            output = f"{base}_{count}"
        try:
            node = kind(inputs=sources, output=output, **fields)
            value = node.infer(*(self.values[source] for source in sources))
        except FormatError as error:
            raise FoldError(f"cannot pack {name!r}: {error}") from None
        self.values[output] = value
        if value.exact:
            known = [self.ranges[source] for source in sources if source in self.ranges]
            self.ranges[output] = range_of(node, value, *known)
        self.nodes.append(node)
        return output

    def write(self, x: Pending) -> str:
        """Emit the deferred operations of `x`, adjacent affine maps as one, and return the name of its packed value.

        A value that was written before, `x` itself or one on the way to it, is reused.
        """
        first = next((n for n in range(len(x.ops), 0, -1) if Pending(x.base, x.ops[:n]) in self._written), 0)
        base = self._written.get(Pending(x.base, x.ops[:first]), x.base)
        scale: np.ndarray | None = None
        shift: np.ndarray | None = None
        for index in range(first, len(x.ops)):
            op, done = x.ops[index], x.ops[: index + 1]
            if op.kind is not None:
                base = self._written[Pending(x.base, done)] = self.emit(op.kind, op.name, base, **(op.fields or {}))
                continue
            if op.scale is not None:
                scale = op.scale if scale is None else scale * op.scale
                shift = None if shift is None else shift * op.scale
            if op.shift is not None:
                shift = op.shift if shift is None else shift + op.shift
            if index + 1 == len(x.ops) or x.ops[index + 1].kind is not None:
                fields = {"scale": _rounded(op.name, scale), "shift": _rounded(op.name, shift)}
                base = self._written[Pending(x.base, done)] = self.emit(Affine, op.name, base, **fields)
                scale, shift = None, None
        return base

    def then(self, x: Pending, op: FoldedOp) -> Pending:
        """`x` after another deferred operation."""
        if op.kind is None and x.moved:  # its channels are not those of the base
            x = Pending(self.write(x))
        return x.then(op)

    def moved(self, call: Call, x: Pending, kind: type[Node], **fields: Any) -> Pending:
        """`x` after an operation that moves elements, deferred if a sign that needs the integers may follow."""
        if x.ops and self.values[x.base].exact:
            return x.then(FoldedOp(call.name, lambda x: x, kind=kind, fields=fields))
        return Pending(self.emit(kind, call.name, self.write(x), **fields))

    def signed(self, call: Call, x: Pending, binary_input: BinaryInput) -> Pending:
        """The signs of `x`: a threshold before the operations that only move elements, or the sign of a real value."""
        calls = self._calls[call.module]
        self._calls[call.module] += 1
        shift = binary_input.shift
        key = x, None if shift is None else call.module
        if key not in self._signed:
            if shift is not None and shift.dim() and any(op.kind is Flatten for op in x.ops):
                x = self._flat_first(x)
            if not self.values[x.base].exact:
                source = self.write(x)
                level = None if shift is None else shift.expand(self.values[source].shape[0]).contiguous().numpy()
                made = compared = self.emit(Sign, call.name, source, shift=level)
                chain = None
            else:
                base, first = x.base, x.ops[0] if x.ops else None
                if first is not None and first.kind is AveragePool:
                    base = self.emit(AveragePool, first.name, base, **{**(first.fields or {}), "sums": 1})
                chain = Chain(x.ops, call.module, self.values[base].shape[0], self.ranges[base])
                threshold, direction = chain.settle()
                made = compared = self.emit(Threshold, call.name, base, threshold=threshold, direction=direction)
                for op in x.ops:
                    if op.moves and op.kind is not None:
                        compared = self.emit(op.kind, op.name, compared, **(op.fields or {}))
            self._signed[key] = compared
            self._signs.append(SignSite(made, compared, call.path or call.name, calls, chain))
        return Pending(self._signed[key])

    def _flat_first(self, x: Pending) -> Pending:
        """`x` with its Flatten before other operations, so that channels are those of the base; else written."""
        shape, kinds = self.values[x.base].shape, [op.kind for op in x.ops]
        if not self.values[x.base].exact or any(issubclass(kind, (MaxPool, AveragePool)) for kind in kinds if kind):
            return Pending(self.write(x))
        at = kinds.index(Flatten)
        base = self.emit(Flatten, x.ops[at].name, x.base)
        before = (op.for_each_pixel(prod(shape[1:])) for op in x.ops[:at])
        return Pending(base, (*before, *x.ops[at + 1 :]))


_IN_PLACE: tuple[Any, ...] = (operator.iadd, "add_", "relu_", torch.relu_)
_IN_PLACE_LAST: tuple[Any, ...] = (F.relu, F.hardtanh, F.dropout)  # by their last argument: F.relu(x, True)


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation overwrites its input."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    last = node.target in _IN_PLACE_LAST and any(value is True for value in node.args[-1:])
    return node.target in _IN_PLACE or last or node.kwargs.get("inplace") is True


def check_finite(name: str, what: str, tensor: Tensor) -> Tensor:
    """`tensor`, detached; NotBinaryError if some values are not finite, FoldError if it is not float32."""
    if tensor.dtype != torch.float32:
        raise FoldError(f"layer {name!r}: got {what} of {tensor.dtype}, expected torch.float32; use model.float()")
    if count := tensor.numel() - int(torch.count_nonzero(torch.isfinite(tensor))):
        raise NotBinaryError(
            f"layer {name!r}: {count} of {tensor.numel()} {what} are not finite; pack an earlier checkpoint"
        )
    return tensor.detach()


def _rounded(name: str, values: np.ndarray | None) -> np.ndarray | None:
    """float64 -> float32, finite."""
    if values is None:
        return None
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    check_finite(name, "folded scales and shifts", torch.from_numpy(result))
    return result
