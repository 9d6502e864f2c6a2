"""The graph of a model: `torch.fx` on an example batch, with known layers kept whole."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from onebit.common.torch_private import forward_hooks, storage_address, traced_through
from onebit.errors import FoldError, OnebitError, first_line
from onebit.fold.unrolled import unrolling_of
from onebit.layers.base import is_close
from onebit.layers.binary import no_fused_path
from onebit.layers.parametrized import hold_weights, release_weights
from onebit.packed.net import INPUT
from onebit.quantizers import sign

Inputs = dict[str, Tensor]
"""Batches (N, …) by the name of the input."""
SIGN_CALL = "sign_call"
"""`node.meta` of a call of `onebit.sign`: its number, see `SignCalls`."""
LAYER_BY_LAYER = "pack layer by layer with onebit.packed_layers_(model)"


def trace(
    model: nn.Module,
    example: Inputs,
    *,
    is_leaf: Callable[[nn.Module], bool],
    shapes_only: bool = False,
) -> fx.Graph:
    """The graph of a model in eval mode, with the value of each node for `example` in `node.meta["value"]`.

    Parameters, buffers and values computed from them alone are constants: nodes with the op "get_attr".
    Some layers are replaced by functions, see `unrolling_of`. `node.meta["written"]` lists the nodes that a node
    changes in place. Other nodes without users are removed.

    Args:
        example: (N, …) each; the graph is valid for this N only, because `view(N, -1)` stores it.
        is_leaf: which modules are one node, in addition to torch's layers.
        shapes_only: float values are on the device "meta"; layers that read their values fail.
    """
    tracer = _Tracer(_clones(example), is_leaf, shapes_only)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast("cpu", enabled=False):
            state = torch.get_rng_state()
            with traced_through(), SignCalls(tracer.number_sign, within_layer=lambda: tracer.running):
                graph = tracer.trace(_Called(model, example))
            drawn = not torch.equal(state, torch.get_rng_state())
    except OnebitError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in example.values())
        failed = f"cannot follow {type(model).__name__}.forward on inputs {shapes}: {first_line(error)}"
        if not isinstance(error, RuntimeError):  # torch's for wrong shapes and dtypes
            failed += f"; it may depend on shapes, not on the contents of tensors; {LAYER_BY_LAYER}"
        raise FoldError(failed) from error
    if drawn:
        raise FoldError(f"{type(model).__name__}.forward draws random numbers in eval mode")
    for node in reversed(graph.nodes):  # as `x[0]` in `x[0].numel()`
        if node.op.startswith("call") and not node.users and not node.meta["written"]:
            graph.erase_node(node)
    return graph


class SignCalls(TorchFunctionMode):
    """Numbers the calls of `onebit.sign` by a model, outside of layers: each is `record(number, result)`.

    The numbers of a run are those of its trace, which does not have all of the calls: some are of constants.
    """

    def __init__(self, record: Callable[[int, Any], None], *, within_layer: Callable[[], bool]) -> None:
        super().__init__()
        self.record, self.within_layer, self.count = record, within_layer, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is sign and not self.within_layer():
            self.record(self.count, result)
            self.count += 1
        return result


def is_overwritten(node: fx.Node) -> bool:
    """Whether an operation overwrites a value that is read later, under any name."""
    nodes = list(node.graph.nodes)
    before, after = nodes[: nodes.index(node)], {*nodes[nodes.index(node) + 1 :]}
    read = {_storage(x) for x in before if not after.isdisjoint(x.users)}
    return any(target.op == "get_attr" or _storage(target) in read for target in node.meta["written"])


def _storage(node: fx.Node) -> int | None:
    value = node.meta.get("value")
    return storage_address(value) if isinstance(value, Tensor) else None


@torch.no_grad()
def refuse_other_branch(model: nn.Module, graph: fx.Graph, example: Inputs) -> None:
    """Raise FoldError if forward computes something else than was traced, as after `isinstance(x, Tensor)`.

    Random numbers of the shape and dtype of `example` are tried.
    """
    replay = _Replay(_Called(model, example), graph=graph)
    with torch.autocast("cpu", enabled=False):
        for inputs in (random_inputs(example), example):
            try:
                expected = called(model, _clones(inputs))
            except Exception:  # some models do not take all numbers, such as one that looks them up in a table
                continue
            if _same(expected, replay.run(*_clones(inputs).values())):
                return
            break
    raise FoldError(
        f"{type(model).__name__}.forward computes something else while it is traced: it must not depend on the type "
        "of its input, as in isinstance(x, torch.Tensor)"
    )


def random_inputs(example: Inputs, count: int | None = None) -> Inputs:
    """`count` samples of random numbers, by default as many as an example has, with its shapes and dtypes."""
    generator = torch.Generator().manual_seed(0)

    def drawn(x: Tensor) -> Tensor:
        shape = (count or len(x), *x.shape[1:])
        if x.dtype == torch.uint8:
            return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(shape, generator=generator)

    return {name: drawn(x) for name, x in example.items()}


def called(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What a model returns for inputs by name: keyword arguments of forward if it has them all, else positional."""
    if [*inputs] != [INPUT] and all(name in forward_names(model) for name in inputs):
        return model(**inputs)
    return model(*inputs.values())


def forward_names(model: nn.Module) -> list[str]:
    """The arguments of forward that have names; none for forward(*inputs)."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return []
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _clones(inputs: Inputs) -> Inputs:
    return {name: x.clone() for name, x in inputs.items()}


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs have the same tensors up to rounding."""
    ours, theirs = _leaves(one), _leaves(other)
    return len(ours) == len(theirs) and all(map(is_close, ours, theirs))


def called_in(node: fx.Node) -> tuple[str, str]:
    """Path and class of the innermost module whose forward makes this call; "" for the model."""
    stack = reversed((node.meta.get("nn_module_stack") or {}).values())
    return next(((in_model(path), kind.__name__) for path, kind in stack if in_model(path)), ("", ""))


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has forward hooks that may change its result."""
    return not {no_fused_path, hold_weights, release_weights}.issuperset(forward_hooks(module))


def _unrolling_of(module: nn.Module) -> Any:
    made = unrolling_of(module)
    hooked = made and (any(map(has_hooks, module.modules())) or "forward" in vars(module))
    return None if hooked else made  # the error is of the whole module


def in_model(path: str) -> str:
    """The path of a module in the model."""
    return path.removeprefix("model").removeprefix(".")


class _Called(nn.Module):
    """Calls the model with the named inputs, so that other arguments keep their defaults."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.model, self.names = model, [*names]

    def forward(self, *inputs: Tensor) -> Any:
        return called(self.model, dict(zip(self.names, inputs, strict=True)))


class _Replay(fx.Interpreter):
    """Runs a graph node by node: the source code of a GraphModule fails for modules named `in` or `class`."""

    def run_node(self, n: fx.Node) -> Any:
        return n.meta["value"] if n.op == "get_attr" else super().run_node(n)


class _ExampleProxy(fx.Proxy):
    """A proxy with the shape, dtype and device of the example."""

    def __getattr__(self, name: str) -> Any:
        value = self.node.meta["value"]
        known = (
            *("shape", "ndim", "dtype", "device", "dim", "numel", "size", "nelement", "is_cuda", "is_nested"),
            *("requires_grad", "is_floating_point", "is_contiguous", "get_device", "stride"),
        )
        if name in known:
            return getattr(value, name)
        if name == "mT":
            return self.transpose(-2, -1)
        if name.startswith("new_"):  # a constant of its dtype
            return getattr(torch.empty(0, dtype=value.dtype), name)
        return super().__getattr__(name)

    def __len__(self) -> int:
        return len(self.node.meta["value"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and isinstance(self.node.meta["value"], (tuple, list)):
            return tuple(self)[index]
        return super().__getitem__(index)  # type: ignore[misc]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


def _recorded(assignment: Callable[..., Any]) -> Callable[..., Any]:
    def assign(self: _ExampleProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", assignment, (self, other), {})

    return assign


# without these, Python replaces a += b by a = a + b, and other names of a miss the change
for _assignment in (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
    *(operator.ifloordiv, operator.imod, operator.ipow),
):
    setattr(_ExampleProxy, f"__{_assignment.__name__}__", _recorded(_assignment))


def _leaves(tree: Any) -> list[Any]:
    """The leaves of tuples, lists and dicts."""
    leaves: list[Any] = []
    fx.node.map_aggregate(tree, leaves.append)
    return leaves


def _constants(arguments: Any) -> bool:
    """Whether the arguments of a layer are none, or tensors that do not depend on the input."""
    leaves = _leaves(arguments)
    # other objects may hold a proxy
    known = all(isinstance(leaf, (Tensor, int, float, str, type(None))) for leaf in leaves)
    return known and (not leaves or any(isinstance(leaf, Tensor) for leaf in leaves))


def _without_numbers(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value


def _version(node: fx.Node) -> int:
    """A counter of in-place changes of the value of a node."""
    value = node.meta["value"]
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


class _Tracer(fx.Tracer):
    """Runs each node on the example when it is created."""

    def __init__(self, example: Inputs, is_leaf: Callable[[nn.Module], bool], shapes_only: bool) -> None:
        super().__init__()
        self.example, self.is_leaf, self.shapes_only, self.running = example, is_leaf, shapes_only, False

    def create_args_for_root(self, root_fn: Any, *_: Any) -> tuple[Any, list[Any]]:
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in self.example)]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self.is_leaf(m):
            return True
        composed = type(m).__module__ == nn.TransformerEncoderLayer.__module__ or _unrolling_of(m)
        return not composed and super().is_leaf_module(m, module_qualified_name)

    def number_sign(self, number: int, result: Any) -> None:
        if isinstance(result, fx.Proxy):
            result.node.meta[SIGN_CALL] = number

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _ExampleProxy(node, self)

    # calls inside a running layer are not recorded, nor are layers called on constants
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.running:
            return forward(*args, **kwargs)
        if not _constants((args, kwargs)):
            return super().call_module(m, _unrolling_of(m) or forward, args, kwargs)
        self.running = True
        try:
            return forward(*args, **kwargs)
        finally:
            self.running = False

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # computations on parameters alone are run, not recorded

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **options)
        if kind == "get_attr":
            node.meta["value"] = reduce(getattr, str(target).split("."), self.root)
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if kind not in ("output", "get_attr"):
            node, self.running = proxy.node, True
            versions = [_version(source) for source in node.all_input_nodes]
            try:
                with torch.random.fork_rng(devices=[]):  # random operations are found in the graph
                    value = self._run(node)
            finally:
                self.running = False
            if self.shapes_only and isinstance(value, Tensor) and value.is_floating_point():
                value = _without_numbers(value)
            node.meta["value"] = value
            node.meta["written"] = [
                source for source, was in zip(node.all_input_nodes, versions, strict=True) if _version(source) != was
            ]
        return proxy

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.example[str(node.target)]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: source.meta["value"])
        # integers keep their values: meta kernels do not check that dtypes match
        on_meta = any(getattr(source.meta["value"], "is_meta", False) for source in node.all_input_nodes)
        if on_meta:
            args, kwargs = fx.node.map_aggregate((args, kwargs), _without_numbers)
        if node.op != "call_module":
            return run(node.target, args, kwargs)
        module = self.root.get_submodule(str(node.target))
        if not on_meta:
            return module(*args, **kwargs)
        state = {name: _without_numbers(x) for name, x in (*module.named_parameters(), *module.named_buffers())}
        return torch.func.functional_call(module, state, args, kwargs)


def run(target: Any, args: Any, kwargs: Any) -> Any:
    """Call a function, or a tensor method by its name."""
    return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
