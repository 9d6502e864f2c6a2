"""The graph of a model: `torch.fx` on an example batch, with known layers kept whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from onebit.errors import FoldError, OnebitError, first_line
from onebit.layers import InputCoding


def trace(model: nn.Module, example: Tensor, *, is_leaf: Callable[[nn.Module], bool]) -> fx.Graph:
    """The graph of a model in eval mode, with the value of each node for `example` in `node.meta["value"]`.

    Args:
        example: uint8 (N, C, H, W); the graph is valid for this N only, because `view(N, -1)` stores it.
        is_leaf: which modules are one node, in addition to torch's own layers.

    Raises:
        FoldError: forward depends on the contents of tensors, fails, or reads the image without `InputCoding`.
    """
    try:
        with torch.no_grad():
            return _Tracer(example, is_leaf).trace(_Whole(model))
    except OnebitError:
        raise
    except Exception as error:
        raise FoldError(
            f"cannot follow {type(model).__name__}.forward on images {tuple(example.shape)}: {first_line(error)}; "
            "it may depend on shapes, but not on the contents of tensors"
        ) from error


def module_path(node: fx.Node) -> str:
    """The path of the module of a node in the model."""
    return str(node.target).removeprefix("model").removeprefix(".")


def target_name(node: fx.Node) -> str:
    """What a node calls, for messages."""
    name = module_path(node) if node.op == "call_module" else getattr(node.target, "__name__", node.target)
    return str(name)


class _Whole(nn.Module):
    """Calls the model with only the images, so that other arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)


class _ExampleProxy(fx.Proxy):
    """A proxy with the shape, dtype and device of the example."""

    def __getattr__(self, name: str) -> Any:
        known = name in ("shape", "ndim", "dtype", "device", "dim", "numel", "size")
        return getattr(self.node.meta["value"], name) if known else super().__getattr__(name)

    def __len__(self) -> int:
        return len(self.node.meta["value"])


class _Tracer(fx.Tracer):
    """Runs each node on the example when it is created."""

    def __init__(self, example: Tensor, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.example = example
        self.is_leaf = is_leaf
        self.running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _ExampleProxy(node, self)

    # while a node runs, calls inside its layer are not recorded
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if kind not in ("output", "get_attr"):
            self.running = True
            try:
                proxy.node.meta["value"] = self._run(proxy.node)
            finally:
                self.running = False
        return proxy

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.example
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                raise FoldError(f"the tensor {target_name(source)!r} is used outside a layer, which cannot be packed")
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        reads_image = any(source.op == "placeholder" for source in node.all_input_nodes)
        if reads_image and not isinstance(module, InputCoding):
            raise FoldError(
                f"the image goes into {target_name(node)!r}, expected InputCoding: a packed net takes uint8 images; "
                'pack nn.Sequential(InputCoding("integer"), model), or "standardize" with mean and std of training: '
                "those of pixels 0–255, or of pixels 0–1 with scale=255"
            )
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: source.meta["value"])
        if module is not None:
            return module(*args, **kwargs)
        if isinstance(node.target, str):
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)
