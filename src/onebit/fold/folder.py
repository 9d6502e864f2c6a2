"""The walk over a traced graph: each operation is looked up in a table and appends nodes of the packed net."""

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
from onebit.fold.chain import Chain, Pending, Step
from onebit.fold.reach import reach_of
from onebit.fold.trace import module_path, target_name
from onebit.layers import BinaryLayer, InputCoding
from onebit.packed import Affine, AveragePool, Flatten, InputSpec, MaxPool, Node, PackedNet, Sign, Threshold, Value
from onebit.packed.net import INPUT
from onebit.quantizers import BinaryInput, BinaryWeight, Quantizer


class SignSite(NamedTuple):
    """Where a net takes signs.

    value: name of the threshold or sign in the packed net.
    seen: name of the packed value that holds the signs as torch has them; behind pools that torch has before its sign.
    module: path of the torch module that gives the same signs.
    call: in which of its calls, which are counted over all places where the module stands.
    chain: what a threshold stands for; None where the packed net takes the sign of a real value.
    """

    value: str
    seen: str
    module: str
    call: int
    chain: Chain | None


class Folded(NamedTuple):
    """A packed net, and where its signs come from."""

    net: PackedNet
    signs: tuple[SignSite, ...]


class Call(NamedTuple):
    """One operation of the model.

    name: of the value it makes; for a layer, where it stands.
    module: the layer, None for a function or method.
    node: of the traced graph, None for the input quantizer of a layer.
    path: where the layer stands, if that is not its name.
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
        """The shapes of what it reads first and of what it makes, for the example, with the batch axis."""
        assert self.node is not None
        before, after = self.node.all_input_nodes[0].meta["value"], self.node.meta["value"]
        return tuple(before.shape), tuple(after.shape)

    def refusal(self, reason: str) -> FoldError:
        """The error that names this operation."""
        what = target_name(self.node) if self.node is not None and self.module is None else type(self.module).__name__
        return FoldError(f"cannot pack {what} ({self.path or self.name!r}): {reason}")


Operation = Callable[..., Pending]
"""(folder, call, *values read) -> the value made."""


class Folder:
    """Collects the packed net of one model.

    Args:
        model: in eval mode on the CPU.
        shape: (C, H, W) of an image.
        shipped: what ships of each binary layer.
        table: the operation of each layer class, function and method name.
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
        self.reach: dict[str, range] = {}
        """The integers that each exact value can take (or more), spread evenly around 0."""
        self._signs: list[SignSite] = []
        self._calls: Counter[nn.Module] = Counter()
        self._written: dict[Pending, str] = {}
        self._signed: dict[tuple[Pending, nn.Module | None], str] = {}

    def fold(self, graph: fx.Graph) -> Folded:
        """The packed net of a graph made by `trace`."""
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
        assert self.input is not None  # tracing lets nothing but InputCoding read the image
        try:
            net = PackedNet(input=self.input, nodes=tuple(self.nodes), output=output)
        except FormatError as error:
            raise FoldError(f"the model cannot be packed: {error}") from None
        return Folded(net, tuple(self._signs))

    def apply(self, call: Call, *inputs: Pending) -> Pending:
        """The value of one operation.

        Raises:
            FoldError: it is not in the table, or does what a packed net cannot.
        """
        node, module = call.node, call.module
        kinds = self._kinds(module) if node is None or module is not None else [node.target]
        if not kinds or kinds[0] not in self.table:
            known = ", ".join(kind.__name__ for kind in self.table if isinstance(kind, type))
            raise call.refusal(f"known layers are {known}; use those, or leave it outside of the model")
        if module is not None and any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
            raise call.refusal("it has forward hooks, which a packed net does not run; remove them")
        if node is not None:
            if not node.users:
                raise call.refusal("its result is never used; remove it from forward")
            if _in_place(node, module) and len(node.all_input_nodes[0].users) > 1:
                raise call.refusal("it changes in place what is also read elsewhere; use inplace=False")
        return self.table[kinds[0]](self, call, *inputs)

    def is_leaf(self, module: nn.Module) -> bool:
        """Whether a module is one operation; an unknown quantizer is, so that it is refused by its name."""
        return isinstance(module, (BinaryLayer, Quantizer)) or bool(self._kinds(module))

    def _kinds(self, module: nn.Module) -> list[type]:
        """The classes of a module in the table. One that overrides `forward` is another operation."""
        cls = type(module)
        if isinstance(module, Quantizer):
            return [] if module.binary_input() is None else [Quantizer]
        return [kind for kind in cls.__mro__ if kind in self.table and getattr(kind, "forward", None) is cls.forward]

    def emit(self, kind: type[Node], name: str, *sources: str, **fields: Any) -> str:
        """Append a node that reads the values `sources`; returns the name of its value, `name` if that is free.

        Raises:
            FoldError: the values do not fit the node.
        """
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
            self.reach[output] = reach_of(
                node, value, *(self.reach[source] for source in sources if source in self.reach)
            )
        self.nodes.append(node)
        return output

    def write(self, x: Pending) -> str:
        """Name of the packed value of `x`: emits the steps that are not yet, neighbouring affine ones as one.

        What was written before is read again, be it `x` itself or a value below some of its steps.
        """
        first = next((n for n in range(len(x.steps), 0, -1) if Pending(x.base, x.steps[:n]) in self._written), 0)
        base = self._written.get(Pending(x.base, x.steps[:first]), x.base)
        scale: np.ndarray | None = None
        shift: np.ndarray | None = None
        for index in range(first, len(x.steps)):
            step, done = x.steps[index], x.steps[: index + 1]
            if step.kind is not None:
                base = self._written[Pending(x.base, done)] = self.emit(
                    step.kind, step.name, base, **(step.fields or {})
                )
                continue
            if step.scale is not None:
                scale = step.scale if scale is None else scale * step.scale
                shift = None if shift is None else shift * step.scale
            if step.shift is not None:
                shift = step.shift if shift is None else shift + step.shift
            if index + 1 == len(x.steps) or x.steps[index + 1].kind is not None:
                fields = {"scale": _rounded(step.name, scale), "shift": _rounded(step.name, shift)}
                base = self._written[Pending(x.base, done)] = self.emit(Affine, step.name, base, **fields)
                scale, shift = None, None
        return base

    def then(self, x: Pending, step: Step) -> Pending:
        """`x` after one more step, held back."""
        if step.kind is None and x.moved:  # its channels are no longer those of the base
            x = Pending(self.write(x))
        return x.then(step)

    def moved(self, call: Call, x: Pending, kind: type[Node], **fields: Any) -> Pending:
        """`x` after an operation that moves numbers: held back where a sign may follow that has to see the integers."""
        if x.steps and self.values[x.base].exact:
            return x.then(Step(call.name, lambda numbers: numbers, kind=kind, fields=fields))
        return Pending(self.emit(kind, call.name, self.write(x), **fields))

    def signed(self, call: Call, x: Pending, stated: BinaryInput) -> Pending:
        """The signs of `x`: a threshold below the operations that only move numbers, or the sign of a real value."""
        calls = self._calls[call.module]
        self._calls[call.module] += 1
        shift = stated.shift
        asked = x, None if shift is None else call.module
        if asked not in self._signed:
            if shift is not None and shift.dim() and any(step.kind is Flatten for step in x.steps):
                x = self._flat_first(x)
            if not self.values[x.base].exact:
                source = self.write(x)
                level = None if shift is None else shift.expand(self.values[source].shape[0]).contiguous().numpy()
                made = seen = self.emit(Sign, call.name, source, shift=level)
                chain = None
            else:
                base, first = x.base, x.steps[0] if x.steps else None
                if first is not None and first.kind is AveragePool:
                    base = self.emit(AveragePool, first.name, base, **{**(first.fields or {}), "sums": 1})
                chain = Chain(x.steps, call.module, self.values[base].shape[0], self.reach[base])
                threshold, direction = chain.settle()
                made = seen = self.emit(Threshold, call.name, base, threshold=threshold, direction=direction)
                for step in x.steps:
                    if step.moves and step.kind is not None:
                        seen = self.emit(step.kind, step.name, seen, **(step.fields or {}))
            self._signed[asked] = seen
            self._signs.append(SignSite(made, seen, call.path or call.name, calls, chain))
        return Pending(self._signed[asked])

    def _flat_first(self, x: Pending) -> Pending:
        """`x` with its flattening below its other steps, so that a channel of it is one of the base; else written."""
        shape, kinds = self.values[x.base].shape, [step.kind for step in x.steps]
        if not self.values[x.base].exact or any(issubclass(kind, (MaxPool, AveragePool)) for kind in kinds if kind):
            return Pending(self.write(x))
        at = kinds.index(Flatten)
        base = self.emit(Flatten, x.steps[at].name, x.base)
        before = (step.for_each_pixel(prod(shape[1:])) for step in x.steps[:at])
        return Pending(base, (*before, *x.steps[at + 1 :]))


_IN_PLACE: tuple[Any, ...] = (operator.iadd, "add_", "relu_", torch.relu_)
_IN_PLACE_LAST: tuple[Any, ...] = (F.relu, F.hardtanh, F.dropout)  # their last argument says so: F.relu(x, True)


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation writes its result over what it reads."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    said = node.target in _IN_PLACE_LAST and any(value is True for value in node.args[-1:])
    return node.target in _IN_PLACE or said or node.kwargs.get("inplace") is True


def check_finite(name: str, what: str, tensor: Tensor) -> Tensor:
    """`tensor`, detached.

    Raises:
        NotBinaryError: some of its values are not finite; names the layer and counts them.
        FoldError: it is not float32.
    """
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
