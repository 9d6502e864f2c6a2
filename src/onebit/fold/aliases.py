"""Operations in place: which overwrite a value that the model reads again; and results that nothing reads."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onebit.common.torch_private import storage_address

ASSIGNMENTS: dict[Any, str] = {
    operator.iadd: "+",
    operator.isub: "-",
    operator.imul: "*",
    operator.itruediv: "/",
    operator.ifloordiv: "//",
    operator.imod: "%",
    operator.ipow: "**",
}
"""Operators such as +=, which change their first argument."""
_IN_PLACE: tuple[Any, ...] = (*ASSIGNMENTS, torch.relu_)
_BY_LAST_ARGUMENT: tuple[Any, ...] = (F.relu, F.hardtanh, F.dropout, F.relu6, F.leaky_relu, F.hardswish, F.hardsigmoid)


def check_in_place(node: fx.Node, module: nn.Module | None) -> str:
    """Why a node cannot be packed: it overwrites a value that is read after it, under any name; "" if it can."""
    if not _in_place(node, module):
        return ""
    if node.kwargs.get("out") is not None:
        return "it writes its result into a tensor; use what it returns, without out="
    target = node.all_input_nodes[0]
    sign = ASSIGNMENTS.get(node.target)
    way = "use inplace=False" if sign is None else f"write x = x {sign} y in place of x {sign}= y"
    reason = f"it overwrites a value that is also used elsewhere; {way}"
    if len(target.users) > 1 or target.op == "get_attr":
        return reason
    aliases = [x for x in node.graph.nodes if x is not node and _storage(x) == _storage(target) is not None]
    order = {x: index for index, x in enumerate(node.graph.nodes)}
    later = any(order[user] > order[node] for x in aliases if order[x] < order[node] for user in x.users)
    return reason if later else ""


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation overwrites its input."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    method = name in ("__setitem__", "__idiv__") or (name.endswith("_") and not name.endswith("__"))
    last = node.target in _BY_LAST_ARGUMENT and any(value is True for value in node.args[-1:])
    written = node.kwargs.get("inplace") is True or node.kwargs.get("out") is not None
    return node.target in _IN_PLACE or method or last or written


def remove_unused_(graph: fx.Graph) -> None:
    """Remove functions and methods that the output does not need, as `x[0]` in `x[0].numel()`.

    Layers stay, because a layer without effect is a mistake to report.
    """
    for node in reversed(graph.nodes):
        if node.op in ("call_function", "call_method") and not node.users and not _in_place(node, None):
            graph.erase_node(node)


def _storage(node: fx.Node) -> int | None:
    value = node.meta.get("value")
    return storage_address(value) if isinstance(value, Tensor) else None
