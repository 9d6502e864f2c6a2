"""The walk over a traced graph: each operation is looked up in a table and appends nodes of the packed net."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from onebit.errors import FoldError, FormatError, NotBinaryError
from onebit.fold.chain import Chain, Pending
from onebit.fold.trace import module_path, target_name
from onebit.layers import BinaryLayer, InputCoding
from onebit.packed import Affine, InputSpec, Node, PackedNet, Value
from onebit.packed.net import INPUT
from onebit.quantizers import BinaryWeight, Quantizer


class SignSite(NamedTuple):
    """Where a net takes signs.

    value: name in the packed net.
    module: path of the torch module that gives the same signs.
    call: in which of its calls, which are counted over all places where the module stands.
    chain: what a threshold stands for; None where the packed net takes the sign of a real value.
    """

    value: str
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
    """

    name: str
    module: Any = None
    node: fx.Node | None = None

    def argument(self, position: int, keyword: str, default: Any) -> Any:
        """The attribute of a layer, or the argument of a function."""
        if self.node is None or self.module is not None:
            return getattr(self.module, keyword, default)
        arguments = self.node.args
        return arguments[position] if len(arguments) > position else self.node.kwargs.get(keyword, default)

    def refusal(self, reason: str) -> FoldError:
        """The error that names this operation."""
        what = target_name(self.node) if self.node is not None and self.module is None else type(self.module).__name__
        return FoldError(f"cannot pack {what} ({self.name!r}): {reason}")


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
            said = node.kwargs.get("inplace") or any(value is True for value in node.args)  # F.relu(x, True)
            in_place = getattr(module, "inplace", False) if module is not None else said
            if in_place and len(node.all_input_nodes[0].users) > 1:
                raise call.refusal("it changes in place what is also read elsewhere; use inplace=False")
        return self.table[kinds[0]](self, call, *inputs)

    def is_leaf(self, module: nn.Module) -> bool:
        """Whether a module is one operation; an unknown quantizer is, so that it is refused by its name."""
        return isinstance(module, (BinaryLayer, Quantizer)) or bool(self._kinds(module))

    def _kinds(self, module: nn.Module) -> list[type]:
        """The classes of a module in the table. One that overrides `forward` is another operation."""
        cls = type(module)
        return [kind for kind in cls.__mro__ if kind in self.table and getattr(kind, "forward", None) is cls.forward]

    def emit(self, kind: type[Node], name: str, source: str, **fields: Any) -> str:
        """Append a node that reads the value `source`; returns the name of its value, `name` if that is free.

        Raises:
            FoldError: the value does not fit the node.
        """
        output = base = re.sub(r"[^A-Za-z0-9_.-]", "_", name[-90:]).lstrip(".-") or "value"
        count = 1
        while output in self.values or output == INPUT:
            count += 1
            output = f"{base}_{count}"
        try:
            node = kind(inputs=(source,), output=output, **fields)
            self.values[output] = node.infer(self.values[source])
        except FormatError as error:
            raise FoldError(f"cannot pack {name!r}: {error}") from None
        self.nodes.append(node)
        return output

    def write(self, x: Pending) -> str:
        """Name of the packed value of `x`: emits its steps, neighbouring affine ones composed in float64."""
        if x in self._written:
            return self._written[x]
        base = x.base
        scale: np.ndarray | None = None
        shift: np.ndarray | None = None
        for index, step in enumerate(x.steps):
            if step.clip is not None:
                base = self.emit(step.clip, step.name, base)
                bound = self.values[base].bound
                if bound is not None:
                    self.reach[base] = range(-bound, bound + 1)
                continue
            if step.scale is not None:
                scale = step.scale if scale is None else scale * step.scale
                shift = None if shift is None else shift * step.scale
            if step.shift is not None:
                shift = step.shift if shift is None else shift + step.shift
            if index + 1 == len(x.steps) or x.steps[index + 1].clip is not None:
                fields = {"scale": _rounded(step.name, scale), "shift": _rounded(step.name, shift)}
                base, scale, shift = self.emit(Affine, step.name, base, **fields), None, None
        self._written[x] = base
        return base

    def add_sign(self, value: str, call: Call, chain: Chain | None) -> None:
        """Note that the packed value `value` holds the signs that `call` makes."""
        self.reach[value] = range(-1, 2, 2)
        self._signs.append(SignSite(value, call.name, self._calls[call.module], chain))
        self._calls[call.module] += 1


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
