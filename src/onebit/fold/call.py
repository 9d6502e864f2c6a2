"""`Call`: one operation of a traced model, and the name that a layer, a function and a method have in common."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from onebit.errors import FoldError
from onebit.fold.chain import Pending
from onebit.fold.trace import called_in, run
from onebit.layers.parametrized import kind_name

Shape = tuple[int, ...]
_HOMES = (torch, F, operator)
_SYNONYMS = {
    **{"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div"},
    **{"subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "negative": "neg", "mm": "matmul"},
    **{"concat": "cat", "concatenate": "cat", "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim"},
    **{"clip": "clamp"},
}


def canonical(target: Any) -> str:
    """`relu` for `nn.ReLU`, `F.relu`, `torch.relu_`, `x.relu()`; `maxpool` for `F.max_pool2d`.

    "" for functions outside torch: they may compute something else.
    """
    if isinstance(target, type):
        known = target.__module__.startswith("torch.nn.modules.")
    else:
        known = isinstance(target, str) or any(vars(home).get(name_of(target)) is target for home in _HOMES)
    name = name_of(target).lower().rstrip("_")
    return re.sub("[12]d$", "", _SYNONYMS.get(name, name)).replace("_", "") if known else ""


def name_of(target: Any) -> str:
    """The name of a class, function or tensor method."""
    return str(getattr(target, "__name__", target))


class Call(NamedTuple):
    """One operation of the model.

    name: of its value; for a layer, its path.
    module: the layer; None for a function or method.
    node: the `fx.Node`; None for the input quantizer of a layer.
    path: of the layer, if it differs from `name`.
    """

    name: str
    module: Any = None
    node: Any = None
    path: str = ""

    def argument(self, position: int, keyword: str, default: Any) -> Any:
        """The attribute of a layer, or the argument of a function."""
        if self.node is None or self.module is not None:
            return getattr(self.module, keyword, default)
        args, kwargs = self.node.args, self.node.kwargs
        if keyword == "dim" and "axis" in kwargs:  # NumPy's name
            keyword = "axis"
        found = args[position] if len(args) > position else kwargs.get(keyword, default)
        return found.meta["value"] if isinstance(found, fx.Node) and found.op == "get_attr" else found

    @property
    def source(self) -> fx.Node:
        """Its first input that is not a constant."""
        return next(source for source in self.node.all_input_nodes if source.op != "get_attr")

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """The shapes of its first input and its output for the example, the batch as first axis."""
        return self.before, samples_of(self.node)

    @property
    def before(self) -> Shape:
        """The shape of its first input for the example, the batch as first axis."""
        return samples_of(self.whole)

    @property
    def whole(self) -> fx.Node:
        """Its first input; for a part of a split, the first input of the split."""
        return self.source if _is_tensor(self.source) else Call("", node=self.source).whole

    def axis(self, dim: int) -> int:
        """The axis of a sample of the first input that torch calls `dim`."""
        batch, shape = batch_of(self.whole), self.whole.meta["value"].shape
        if dim % len(shape) == batch.axis:
            raise self.refusal(f"got dim={dim}, the axis of the batch in {tuple(shape)}")
        return batch.sample_axis(dim % len(shape))

    def on(self, probe: Tensor) -> Any:
        """The result of the function for `probe` as its input."""
        if self.node.op == "call_module":
            raise self.refusal("it returns several values, expected one")

        def replaced(source: fx.Node) -> Any:
            if source.op == "get_attr":
                return source.meta["value"]
            return probe if _is_tensor(source) else Call("", node=source).on(probe)

        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), replaced)
        return run(self.node.target, args, kwargs)

    def refusal(self, reason: str) -> FoldError:
        """The error that names this operation."""
        is_module = self.module is not None or self.node is None
        kind = kind_name(self.module) if is_module else name_of(self.node.target)
        path, caller = ("", "") if is_module else called_in(self.node)
        end = f"; it is called in {path!r} ({caller})" if path else ""
        return FoldError(f"cannot pack {kind} ({self.path or self.name!r}): {reason}{end}")


Operation = Callable[..., Pending]
"""(folder, call, *inputs) -> output."""


class Batch(NamedTuple):
    """Where the samples are in a tensor: along `axis`, each with `times` numbers, as after `x.view(N * 4, -1)`.

    The value of a packed net has `times` as an axis at this place, unless it is 1.
    """

    axis: int = 0
    times: int = 1

    def sample_axis(self, axis: int) -> int:
        """The axis of the value for another axis of the tensor."""
        return axis - (self.times == 1 and axis > self.axis)

    def samples(self, shape: Sequence[int]) -> Shape:
        """The shape (N, …) of the samples in a tensor."""
        *before, size = shape[: self.axis + 1]
        return (size // self.times, *before, *[self.times][: self.times > 1], *shape[self.axis + 1 :])


def inverse(axes: Sequence[int]) -> Shape:
    """The permutation that undoes another one."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


def batch_of(node: fx.Node) -> Batch:
    """Where the samples are in the tensor of a node."""
    batch: Batch = node.meta.get("batch", Batch())
    return batch


def samples_of(node: fx.Node) -> Shape:
    """The shape (N, …) of samples, for the example."""
    return batch_of(node).samples(node.meta["value"].shape)


def any_batch(fold: Operation) -> Operation:
    """Mark an operation for samples along any axis."""
    fold.any_batch = True  # type: ignore[attr-defined]
    return fold


def any_dtype(fold: Operation) -> Operation:
    """Mark an operation that only moves or selects values: its result may have any dtype."""
    fold.any_dtype = True  # type: ignore[attr-defined]
    return fold


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta["value"], Tensor)


def shown(size: Sequence[int]) -> str:
    """A shape with the batch axis, as in (N, 3, 8, 8)."""
    return f"(N, {', '.join(str(axis) for axis in size[1:])})" if len(size) > 1 else "(N,)"
