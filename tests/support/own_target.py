"""An export target of one's own: a NumPy archive of the arrays of each node; it lacks most operations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from onebit.packed import PackedNet, nodes
from onebit.runtime import run as run_reference
from support.own_entries import NegateNode

OPERATIONS = {nodes.Flatten, nodes.Dense, nodes.Affine, nodes.Threshold, nodes.Relu, NegateNode}
EXACT = True
RUNS_WITH = "numpy"


def write(net: PackedNet, path: Path, **options: str) -> None:
    """One array for each field of each node."""
    np.savez(path, **{f"{node.output}.{name}": array for node in net.nodes for name, array in node.stored.items()})


def run(net: PackedNet, path: Path, inputs: np.ndarray, **options: str) -> dict[str, np.ndarray]:
    """What the net gives with the arrays of the file in place of its own."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    made = []
    for node in net.nodes:
        own: dict[str, Any] = {name: arrays[f"{node.output}.{name}"] for name in node.stored}
        made.append(dataclasses.replace(node, **own))
    return net.by_name(run_reference(dataclasses.replace(net, nodes=tuple(made)), inputs))
