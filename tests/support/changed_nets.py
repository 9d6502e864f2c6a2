"""Packed nets in which one node is another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onebit.packed import PackedNet


def node_of(packed: PackedNet, which: str | type, at: int = 0) -> Any:
    """The node with this output, or one of those of a type."""
    return [node for node in packed.nodes if node.output == which or type(node) is which][at]


def changed(packed: PackedNet, which: str | type, at: int = 0, **fields: Any) -> PackedNet:
    """The net with other fields in one node; a function makes the new value from the old one."""
    node = node_of(packed, which, at)
    values = {name: value(getattr(node, name)) if callable(value) else value for name, value in fields.items()}
    other = replace(node, **values)
    return replace(packed, nodes=tuple(other if one is node else one for one in packed.nodes))
