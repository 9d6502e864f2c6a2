"""`Folder` walks over a traced graph: each operation is looked up in a table and appends nodes to the packed net."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from onebit.errors import FoldError, FormatError, OnebitError
from onebit.fold.call import Batch, Call, Operation, Shape, batch_of, canonical, inverse, shown
from onebit.fold.chain import Chain, FoldedOp, Pending, check_finite, joined
from onebit.fold.trace import LAYER_BY_LAYER, SIGN_CALL, has_hooks, in_model, is_overwritten
from onebit.integer.conversion import Affines, to_float32
from onebit.integer.multipliers import RealRounding
from onebit.layers import BinaryLayer
from onebit.packed import (
    Affine,
    AveragePool,
    Flatten,
    InputSpec,
    MaxPool,
    Node,
    PackedNet,
    Permute,
    Prelu,
    Quantize,
    Repeat,
    Reshape,
    Sign,
    Take,
    Threshold,
    Value,
)
from onebit.quantizers import BinaryInput, BinaryWeight, Quantizer

_UNKNOWN = "unknown "
"""Prefix of the names of values behind refused operations; no emitted value has a space in its name."""
_SEVERAL = ("chunk", "split", "unbind")
"""Operations that return tuples, whose parts `getitem` takes."""
_OF_SHAPES = ("viewas", "reshapeas", "expandas", "typeas")
"""Operations that read only the shape or the dtype of their second input."""


class Site(NamedTuple):
    """Where a net takes signs or rounds to integers.

    value: name of the signs or integers in the packed net.
    compared: name of the packed value to compare with torch's: after pools that torch computes before its sign.
    module: path of the torch module that makes the same signs or integers; "" for the function `onebit.sign`.
    call: which call of the module or function.
    chain: what a threshold replaces; None if the packed net takes the sign of a real value, or rounds.
    """

    value: str
    compared: str
    module: str
    call: int
    chain: Chain | None = None


class Folded(NamedTuple):
    """A packed net, and where it takes signs and rounds.

    affine: the operations that each affine map of the packed net joins.
    real: for each requantization, what it computes in real arithmetic.
    """

    net: PackedNet
    sites: tuple[Site, ...]
    affine: dict[str, tuple[FoldedOp, ...]]
    real: dict[str, RealRounding]

    @property
    def numbers(self) -> dict[str, Affines]:
        """Scale and shift of each affine map as the model has them, in float64; the net has them in float32."""
        return {name: joined(op.formula or (op.scale, op.shift) for op in ops) for name, ops in self.affine.items()}


class Folder:
    """Builds the packed net of one model, which is in eval mode on the CPU.

    Args:
        specs: the inputs by name, with the coding "values".
        shipped: the binary weights of each binary layer.
        table: the operations by layer class, function and method name, as `FOLDS`.
        free: whether the nodes must not depend on the size of images.
    """

    def __init__(
        self,
        model: nn.Module,
        specs: dict[str, InputSpec],
        shipped: Mapping[nn.Module, BinaryWeight],
        table: Mapping[Any, Operation],
        free: bool = False,
    ) -> None:
        self.model, self.shipped, self.table, self.free = model, shipped, table, free
        self.inputs, self.first_inputs = dict(specs), specs
        self.refusals: dict[str, OnebitError] | None = None
        """Collects the errors of refused operations by path; None to raise the first."""
        self.pending: dict[fx.Node, Pending] = {}
        self.nodes: list[Node] = []
        self.made: dict[str, Node] = {}
        """The nodes by their outputs."""
        self.values: dict[str, Value] = {}
        self.affine: dict[str, tuple[FoldedOp, ...]] = {}
        self._sites: list[Site] = []
        self._calls: Counter[nn.Module] = Counter()
        self._written: dict[Pending, str] = {}
        self._signed: dict[tuple[Pending, nn.Module | None], str] = {}
        for name, spec in specs.items():
            self.set_input(name, spec)

    def set_input(self, name: str, spec: InputSpec) -> None:
        """Set how an input becomes a value."""
        self.inputs[name], self.values[name] = spec, spec.value

    def fold(self, graph: fx.Graph) -> Folded:
        """The packed net of a graph from `trace`."""
        return self.finish(self.walk(graph))

    def finish(self, output: Any) -> Folded:
        """The packed net with these outputs, as `walk` returns them."""
        names = {output} if isinstance(output, str) else {*(output.values() if isinstance(output, dict) else output)}
        self._prune(names)
        if unused := [name for name in self.inputs if name not in names]:
            raise FoldError(f"forward does not use its input {unused[0]!r}")
        net = PackedNet(inputs=self.inputs, nodes=tuple(self.nodes), output=output)
        return Folded(net, tuple(self._sites), self.affine, {})

    def walk(self, graph: fx.Graph) -> Any:
        """Apply the operations of a graph in order; returns the name of the output, or a tuple or dict of names."""
        for node in graph.nodes:
            if node.op == "placeholder":
                self.pending[node] = Pending(str(node.target))
            elif node.op.startswith("call"):
                operands = [self.pending[x] for x in node.all_input_nodes if x.op != "get_attr"]
                self.pending[node] = self._step(node, operands)
        return self._output(next(iter(reversed(graph.nodes))).args[0])

    def _step(self, node: fx.Node, inputs: list[Pending]) -> Pending:
        call = Call(node.name, node=node)
        if node.op == "call_module":
            path = in_model(str(node.target))
            call = Call(path, self.model.get_submodule(path), node)
        try:
            return self.apply(call, *inputs)
        except OnebitError as error:
            if self.refusals is None:
                raise
            # parts of the result of a refused layer have the same reason
            if node.target is not operator.getitem or not inputs[0].base.startswith(_UNKNOWN):
                self.refusals.setdefault(call.name, error)
            name = f"{_UNKNOWN}{node.name}"
            self.values[name] = Value(tuple(getattr(node.meta.get("value"), "shape", ()))[1:], "real")
            return Pending(name)

    def _output(self, answer: Any) -> Any:
        keyed = isinstance(answer, dict)
        parts = [*answer.values()] if keyed else [*answer] if isinstance(answer, (tuple, list)) else [answer]
        tensors = all(
            isinstance(x, fx.Node) and x in self.pending and isinstance(x.meta["value"], Tensor) for x in parts
        )
        if not parts or not tensors or (keyed and not all(isinstance(key, str) for key in answer)):
            raise FoldError(
                "the model returns something other than a tensor, or a tuple, list or dict of tensors with text as keys"
            )
        if any(batch_of(part) != Batch() for part in parts):
            raise FoldError("the model returns a tensor without the samples along its first axis")
        names = [self.write(self.pending[part]) for part in parts]
        return dict(zip(answer, names, strict=True)) if keyed else names[0] if parts == [answer] else tuple(names)

    def _prune(self, needed: set[str]) -> None:
        """Remove nodes that no output needs, such as reshapes that the next node undid; extends `needed`."""
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs)
        source = {node.output: node.inputs[0] for node in self.nodes}
        for index, site in enumerate(self._sites):
            compared = site.compared
            while compared not in needed and compared != site.value:
                compared = source[compared]
            self._sites[index] = site._replace(compared=compared)
        self.nodes = kept[::-1]

    def apply(self, call: Call, *inputs: Pending) -> Pending:
        """The value of one operation; FoldError if no packed net has it."""
        node, module = call.node, call.module
        key = self._key(node.target) if module is None and node is not None else self._kind(module)
        if key is None:
            raise call.refusal(f"a packed net has no such operation; {LAYER_BY_LAYER}")
        fold = self.table[key]
        marks = vars(getattr(fold, "func", fold))
        any_dtype = "any_dtype" in marks
        if module is not None:
            if any(map(has_hooks, module.modules())):
                raise call.refusal("it has forward hooks, which a packed net does not run")
            if any("forward" in vars(m) for m in module.modules()):
                raise call.refusal("its forward method was replaced; write a class with this forward")
        if node is not None:
            value = node.meta["value"]
            batches = {batch_of(source) for source in node.all_input_nodes if source.op != "get_attr"}
            if key in _OF_SHAPES:
                batches = {batch_of(call.whole)}
            node.meta["batch"], *others = batches or {Batch()}
            if others or (node.meta["batch"] != Batch() and "any_batch" not in marks):
                raise call.refusal("expected the samples along the first axis")
            if node.meta["written"] and (any_dtype or is_overwritten(node)):
                raise call.refusal("it overwrites a value that is used elsewhere; use inplace=False, or x = x + y")
            if isinstance(value, (tuple, list)) and key not in _SEVERAL:
                raise call.refusal("it returns several values, expected one")
            if not any_dtype and value.dtype != torch.float32:
                raise call.refusal(f"its result is {value.dtype}, expected torch.float32")
        return fold(self, call, *inputs)

    def is_leaf(self, module: nn.Module) -> bool:
        """Whether a module is one operation; unknown quantizers are, so that the error names them."""
        return isinstance(module, (BinaryLayer, Quantizer)) or self._kind(module) is not None

    def _key(self, target: Any) -> Any:
        """The key of a class, function or method in the table; None if there is none."""
        return next((key for key in (target, canonical(target)) if key in self.table), None)

    def _kind(self, module: nn.Module) -> Any:
        """The key of a module; None if it is a subclass that may compute something else."""
        cls = type(module)
        if isinstance(module, Quantizer):
            return None if (module.binary_input(), module.integer_input()) == (None, None) else Quantizer
        for kind in cls.__mro__:
            key = self._key(kind)
            if key is not None and getattr(kind, "forward", None) is cls.forward:
                return None if _overrides(cls, kind) else key
        return None

    def emit(self, kind: type[Node], name: str, *sources: str, **fields: Any) -> str:
        """Append a node; returns the name of its value: `name`, or a similar free one."""
        if kind in (Flatten, Reshape, Permute):
            kind, sources, fields = self._shortened(kind, *sources, **fields)
            shape = self.values[sources[0]].shape
            if fields.get("shape") == shape or fields.get("axes") == tuple(range(len(shape))):
                return sources[0]
        output = base = re.sub(r"[^A-Za-z0-9_.-]", "_", name[-90:]).lstrip(".-") or "value"
        count = 1
        while output in self.values:
            count += 1
            output = f"{base}_{count}"
        try:
            node = kind(inputs=sources, output=output, **fields)
            value = node.infer(*(self.values[source] for source in sources))
        except FormatError as error:
            raise FoldError(f"cannot pack {name!r}: {error}") from None
        check_finite(name, *node.stored.values())
        self.values[output], self.made[output] = value, node
        self.nodes.append(node)
        return output

    def write(self, x: Pending) -> str:
        """Emit the deferred operations of `x`, adjacent affine maps as one; returns the name of the packed value.

        Values that were written before are reused.
        """
        first = next((n for n in range(len(x.ops), 0, -1) if Pending(x.base, x.ops[:n]) in self._written), 0)
        base = self._written.get(Pending(x.base, x.ops[:first]), x.base)
        start = first
        for index in range(first, len(x.ops)):
            op, done = x.ops[index], x.ops[: index + 1]
            if op.kind is not None:
                base = self._written[Pending(x.base, done)] = self.emit(op.kind, op.name, base, **(op.fields or {}))
                start = index + 1
            elif index + 1 == len(x.ops) or x.ops[index + 1].kind is not None:
                maps = x.ops[start : index + 1]
                scale, shift = map(to_float32, joined((one.scale, one.shift) for one in maps))
                base = self._written[Pending(x.base, done)] = self.emit(Affine, op.name, base, scale=scale, shift=shift)
                self.affine[base] = maps
        return base

    def elementwise(self, kind: type[Node], name: str, *values: Pending, **fields: Any) -> Pending:
        """An operation on each element of values of equal shapes.

        It comes before permutations of the axes, which then often meet their inverse.
        """
        sources = [self.write(x) for x in values]
        moves = next((moves for source in sources if (moves := self.moves(source))), [])
        sources = [self._undone(name, source, moves) for source in sources]
        return Pending(self.redone(name, self.emit(kind, name, *sources, **fields), moves))

    def moves(self, name: str) -> list[Node]:
        """The moves without loss that end in a value, the first of them first; [] without a permutation."""
        moves: list[Node] = []
        while isinstance(node := self.made.get(name), (Flatten, Reshape, Permute)):
            moves.insert(0, node)
            name = node.inputs[0]
        while moves and not isinstance(moves[0], Permute):  # they keep the order of the elements
            del moves[0]
        return moves

    def redone(self, name: str, source: str, moves: Sequence[Any]) -> str:
        """A value after moves."""
        for node in moves:
            fields = {field: getattr(node, field) for field in node.attributes}
            source = self.emit(type(node), f"{name}.moved", source, **fields)
        return source

    def _undone(self, name: str, source: str, moves: Sequence[Any]) -> str:
        """The value that becomes `source` by moves."""
        for node in reversed(moves):
            if isinstance(node, Permute):
                source = self.emit(Permute, f"{name}.moved", source, axes=inverse(node.axes))
            else:
                shape = self.values[node.inputs[0]].shape
                source = self.emit(Reshape, f"{name}.moved", source, shape=shape)
        return source

    def then(self, x: Pending, op: FoldedOp) -> Pending:
        """`x` after another deferred operation."""
        if op.kind in (None, Prelu) and x.moved:  # its channels are not those of the base
            x = Pending(self.write(x))
        return x.then(op)

    def _shortened(self, kind: type[Node], source: str, **fields: Any) -> tuple[type[Node], tuple[str], dict[str, Any]]:
        """The same elements from the input of a Reshape or Permute that this one undoes or continues."""
        node: Any
        while (node := self.made.get(source)) is not None:
            if {kind, type(node)} <= {Flatten, Reshape}:
                source = node.inputs[0]
            elif kind is type(node) is Permute:
                source, fields = node.inputs[0], {"axes": tuple(node.axes[axis] for axis in fields["axes"])}
            else:
                break
        if kind is Flatten and len(self.values[source].shape) == 1:
            kind, fields = Reshape, {"shape": self.values[source].shape}
        return kind, (source,), fields

    def moved(self, call: Call, x: Pending, kind: type[Node], *, mixes: bool = False, **fields: Any) -> Pending:
        """`x` after an operation that moves elements, deferred if a sign of the integers may follow.

        `mixes` tells whether the channels of the result differ from those of `x`.
        """
        if x.ops and self.values[x.base].exact:
            return x.then(FoldedOp(call.name, lambda x: x, kind=kind, fields=fields, mixes=mixes))
        return Pending(self.emit(kind, call.name, self.write(x), **fields))

    def reshaped(self, call: Call, x: Pending, before: Shape, shape: Shape) -> Pending:
        """`x`, of shape `before`, with another shape; both without the batch axis."""
        if before == shape:
            return x
        if len(shape) == 1:
            return self.moved(call, x, Flatten, mixes=True)
        same = before[:1] == shape[:1] != ()
        if same and not any(op.moves or op.kind is AveragePool for op in x.ops):  # it commutes with all of them
            return Pending(self.emit(Reshape, call.name, x.base, shape=shape), x.ops)
        return self.moved(call, x, Reshape, mixes=not same, shape=shape)

    def permuted(self, call: Call, x: Pending, axes: Shape) -> Pending:
        """`x` with axis `axes[i]` at position i, without the batch axis."""
        if axes == tuple(range(len(axes))):
            return x
        if x.ops and x.ops[-1].kind is Permute and x.ops[-1].fields:
            first = x.ops[-1].fields["axes"]
            return self.permuted(call, Pending(x.base, x.ops[:-1]), tuple(first[axis] for axis in axes))
        return self.moved(call, x, Permute, mixes=axes[0] != 0, axes=axes)

    def repeated(self, call: Call, x: Pending, before: Shape, after: Shape) -> Pending:
        """`x`, of shape `before`, with each element repeated to fill the shape `after`; both with the batch axis."""
        if len(before) != len(after) or before[0] != after[0]:
            raise call.refusal(f"it turns {shown(before)} into {shown(after)}, expected the same axes, the batch first")
        if before == after:
            return x
        times = tuple(new // old for old, new in zip(before[1:], after[1:], strict=True))
        return self.moved(call, x, Repeat, mixes=times[0] != 1, times=times)

    def signed(self, call: Call, x: Pending, binary_input: BinaryInput) -> Pending:
        """The signs of `x`: a threshold of integers before all moves of elements, or the sign of a real value."""
        index = self._index(call)
        if not all(op.monotonic for op in x.ops):  # no integer threshold can replace them
            x = Pending(self.write(x))
        shift = binary_input.shift
        key = x, None if shift is None else call.module
        if key not in self._signed:
            if shift is not None and shift.dim() and any(op.mixes for op in x.ops):
                x = self._flat_first(x)
            if not self.values[x.base].exact:
                source = self.write(x)
                level = None if shift is None else shift.expand(self.values[source].shape[0]).contiguous().numpy()
                signs = compared = self.emit(Sign, call.name, source, shift=level)
                chain = None
            else:
                base, first = x.base, x.ops[0] if x.ops else None
                if first is not None and first.kind is AveragePool:
                    base = self.emit(AveragePool, first.name, base, **{**(first.fields or {}), "sums": 1})
                chain = Chain(x.ops, call.module, self.values[base].shape[0], self.values[base].integers)
                threshold, direction = chain.settle()
                signs = compared = self.emit(Threshold, call.name, base, threshold=threshold, direction=direction)
                for op in x.ops:
                    if op.moves and op.kind is not None:
                        compared = self.emit(op.kind, op.name, compared, **(op.fields or {}))
            self._signed[key] = compared
            of_function = call.node is not None and call.node.op == "call_function"
            self._sites.append(Site(signs, compared, "" if of_function else call.path or call.name, index, chain))
        return Pending(self._signed[key])

    def rounded(self, call: Call, x: Pending, least: int, most: int) -> str:
        """The integers of `x`, rounded by the module of a call."""
        integers = self.emit(Quantize, call.name, self.write(x), least=least, most=most)
        self._sites.append(Site(integers, integers, call.path or call.name, self._index(call)))
        return integers

    def _index(self, call: Call) -> int:
        """The number of earlier calls of the same module or function."""
        if call.node is not None and SIGN_CALL in call.node.meta:
            return int(call.node.meta[SIGN_CALL])
        self._calls[call.module] += 1
        return self._calls[call.module] - 1

    def _flat_first(self, x: Pending) -> Pending:
        """`x` with its Flatten first, so that the base has its channels; written if that is impossible."""
        shape, kinds = self.values[x.base].shape, [op.kind for op in x.ops]
        if not {MaxPool, AveragePool, Reshape, Permute, Repeat, Take}.isdisjoint(kinds):
            return Pending(self.write(x))
        at = kinds.index(Flatten)
        base = self.emit(Flatten, x.ops[at].name, x.base)
        before = (op.for_each_pixel(prod(shape[1:])) for op in x.ops[:at])
        return Pending(base, (*before, *x.ops[at + 1 :]))


_WITHOUT_EFFECT = {"extra_repr", "forward", "reset_parameters"}
"""Methods of subclasses that do not change the result; `forward` is compared separately."""


def _overrides(cls: type, known: type) -> bool:
    """Whether a subclass overrides attributes of a known class that `forward` may read."""
    below = cls.__mro__[: cls.__mro__.index(known)]
    names = {name for sub in below for name in vars(sub) if hasattr(known, name)}
    return any(not (name.startswith("__") and name.endswith("__")) for name in names - _WITHOUT_EFFECT)
