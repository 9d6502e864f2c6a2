"""Differences between two nets, and which of them rounding explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onebit.packed import PackedNet
from onebit.packed.difference import array_differences, graph_difference

Maker = Callable[..., PackedNet]


def with_arrays(net: PackedNet, name: str, **arrays: np.ndarray) -> PackedNet:
    nodes = tuple(replace(node, **arrays) if node.output == name else node for node in net.nodes)
    return replace(net, nodes=nodes)


def test_a_net_does_not_differ_from_itself(packed_mlp: Maker) -> None:
    for form in ("weight-only", "sign", "mixed"):
        net, same = packed_mlp(form=form), packed_mlp(form=form)
        assert graph_difference(net, same) is None
        assert list(array_differences(net, same)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: {"name": "other"}, "name 'random mixed' instead of 'other'"),
        (lambda net: {"classes": None}, "classes ('0', '1', "),
        (lambda net: {"input": replace(net.input, std=net.input.std + 1)}, "input std array([64.]"),
        (lambda net: {"nodes": net.nodes[:-1], "output": "fc2"}, "number of nodes 7 instead of 6"),
        (lambda net: {"nodes": (*net.nodes[:-1], replace(net.nodes[-1], output="x")), "output": "x"}, "node 'affine b"),
    ],
)
def test_differences_of_graphs_are_described(
    packed_mlp: Maker, change: Callable[[Any], dict[str, Any]], message: str
) -> None:
    net = packed_mlp(form="mixed")
    found = graph_difference(net, replace(net, **change(net)))
    assert found is not None
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("form", "name", "field", "change", "differing", "rounding"),
    [
        ("weight-only", "fc1", "signs", lambda a: a ^ np.uint64([[1], *[[0]] * 64]), 2, False),
        ("weight-only", "affine0", "scale", lambda a: np.nextafter(a, np.float32(9)), 70, True),
        ("weight-only", "affine0", "shift", lambda a: a + np.float32(5e-6), 70, True),
        ("weight-only", "affine0", "shift", lambda a: a + np.float32(1e-3), 70, False),
        ("weight-only", "affine0", "scale", lambda a: a * np.float32(1.001), 70, False),
        ("weight-only", "affine0", "scale", lambda a: a + np.float32(5e-6), 70, False),
        ("sign", "threshold0", "threshold", lambda a: a + np.int32([2, *[0] * 69]), 1, True),
        ("sign", "threshold0", "threshold", lambda a: a - np.int32([3, *[0] * 69]), 1, False),
        ("sign", "threshold0", "direction", lambda a: -a, 70, False),
        ("mixed", "fc2", "weight", lambda a: a * np.float32(1 + 1e-6), None, True),
        ("mixed", "bias2", "shift", lambda a: a * 0, 10, False),
    ],
)
def test_arrays_differ_by_rounding_or_more(
    packed_mlp: Maker, form: str, name: str, field: str, change: Any, differing: int | None, rounding: bool
) -> None:
    net = packed_mlp(form=form)
    node = next(node for node in net.nodes if node.output == name)
    other = with_arrays(net, name, **{field: change(getattr(node, field))})
    assert graph_difference(net, other) is None
    [found] = array_differences(other, net)
    assert (found.node, found.field, found.rounding) == (name, field, rounding)
    assert found.differing == differing or differing is None
    assert str(found).startswith(f"{found.differing:,} of {found.size:,} values of {field} of {name}")


def test_zeros_of_different_sign_differ(packed_mlp: Maker) -> None:
    net = with_arrays(packed_mlp((12, 4)), "affine0", shift=np.zeros(4, np.float32))
    [found] = array_differences(with_arrays(net, "affine0", shift=-np.zeros(4, np.float32)), net)
    assert (found.differing, found.largest, found.rounding) == (4, 0.0, True)
