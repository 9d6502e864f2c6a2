"""Differences between two nets, and which of them rounding explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onebit.packed import Affine, Dense, PackedNet, Prelu, RealDense
from onebit.packed.difference import array_differences, graph_difference
from support.packed_nets import Builder, make_packed_mlp


def with_arrays(net: PackedNet, name: str, **arrays: np.ndarray) -> PackedNet:
    nodes = tuple(replace(node, **arrays) if node.output == name else node for node in net.nodes)
    return replace(net, nodes=nodes)


def test_a_net_does_not_differ_from_itself() -> None:
    for form in ("weight-only", "sign", "mixed"):
        net, same = make_packed_mlp(form=form), make_packed_mlp(form=form)
        assert graph_difference(net, same) is None
        assert list(array_differences(net, same)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: {"name": "other"}, "name 'random mixed' instead of 'other'"),
        (lambda net: {"classes": None}, "classes ('0', '1', "),
        (lambda net: {"inputs": {"input": replace(net.input, std=net.input.std + 1)}}, "input std array([64.]"),
        (lambda net: {"inputs": {"input": replace(net.input, meaning="a cat")}}, "input meaning '' instead of 'a cat'"),
        (lambda net: {"nodes": net.nodes[:-1], "output": "fc2"}, "node "),
        (lambda net: {"nodes": (*net.nodes[:-1], replace(net.nodes[-1], output="x")), "output": "x"}, "node 'affine b"),
    ],
)
def test_differences_of_graphs_are_described(change: Callable[[Any], dict[str, Any]], message: str) -> None:
    net = make_packed_mlp(form="mixed")
    found = graph_difference(net, replace(net, **change(net)))
    assert found is not None
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("form", "name", "field", "change", "differing", "rounding"),
    [
        ("weight-only", "fc1", "signs", lambda a: a ^ np.uint64([[1], *[[0]] * 64]), 2, False),
        ("weight-only", "affine0", "scale", lambda a: np.nextafter(a, np.float32(9)), 70, True),
        ("weight-only", "affine0", "shift", lambda a: a * np.float32(1 + 5e-6), None, True),
        ("weight-only", "affine0", "shift", lambda a: a + np.float32(1e-3), 70, False),
        ("weight-only", "affine0", "scale", lambda a: a + np.float32(5e-6), 70, False),
        ("sign", "threshold0", "threshold", lambda a: a + np.int32([2, *[0] * 69]), 1, True),
        ("sign", "threshold0", "threshold", lambda a: a - np.int32([3, *[0] * 69]), 1, False),
        ("sign", "threshold0", "direction", lambda a: -a, 70, False),
        ("mixed", "fc2", "weight", lambda a: a * np.float32(1 + 1e-6), None, True),
        ("mixed", "fc1", "centre", lambda a: a + np.float32(2e-7), None, True),
        ("mixed", "fc1", "centre", lambda a: a + np.float32(1e-4), 65, False),
        ("mixed", "bias2", "shift", lambda a: a * 0, 10, False),
    ],
)
def test_arrays_differ_by_rounding_or_more(
    form: str, name: str, field: str, change: Any, differing: int | None, rounding: bool
) -> None:
    net = make_packed_mlp(form=form)
    node = next(node for node in net.nodes if node.output == name)
    other = with_arrays(net, name, **{field: change(getattr(node, field))})
    assert graph_difference(net, other) is None
    [found] = array_differences(other, net)
    assert (found.node, found.field, found.rounding) == (name, field, rounding)
    assert found.differing == differing or differing is None
    assert str(found).startswith(f"{found.differing:,} of {found.size:,} values of {field} of {name}")


def net_of_unequal_channels() -> PackedNet:
    """The numbers of channel 0 are a millionth of those of the others."""
    sizes = np.float32([1e-6, 1, 1, 1])
    b = Builder((4,), coding="values")
    one_bit = b.signs(4, 4)
    b.add(Dense, **{**one_bit, "scale": sizes * np.float32(0.7), "centre": sizes * np.float32(0.2)})
    b.add(Affine, scale=sizes * np.float32([2, -2, 1, 3]), shift=sizes * np.float32([-5, 3, 1e-3, 4]))
    b.add(Affine, shift=sizes)
    b.add(Prelu, slope=sizes / 4)
    b.add(RealDense, weight=sizes[:, None] * b.real(4, 4))
    wide = b.add(Dense, "input", **one_bit)
    multiplier = np.rint(2e9 * sizes.astype(np.float64) * np.array([[1], [3e-3]])).astype(np.int32)
    offset = np.int64([2**29, 2**49, -(2**49), 2**40])  # of a constant that is small beside those of the others
    b.requantize(wide, "input")
    b.nodes[-1] = replace(b.nodes[-1], multiplier=multiplier, offset=offset, right_shift=30)
    return b.net((b.last, "n4"))


@pytest.mark.parametrize(
    ("name", "field", "at", "change"),
    [
        ("n0", "scale", 0, 0.01),
        ("n0", "centre", 0, 0.01),
        ("n1", "scale", 0, 0.01),
        ("n1", "shift", 0, 0.01),
        ("n2", "shift", 0, 0.01),
        ("n3", "slope", 0, 0.01),
        ("n4", "weight", (0, 0), 0.01),
        ("n6", "multiplier", (0, 0), 0.01),
        ("n6", "multiplier", (1, 1), 2e-4),  # of the smaller input
        ("n6", "offset", 0, 0.05),
    ],
)
def test_a_small_channel_is_compared_as_closely_as_a_large_one(name: str, field: str, at: Any, change: float) -> None:
    net = net_of_unequal_channels()
    array = next(getattr(node, field) for node in net.nodes if node.output == name)
    for size, rounding in ((change, False), (1e-6, True)):
        other = array.astype(np.float64)
        other[at] *= 1 + size
        if array.dtype.kind == "i":
            other = np.rint(other)
        found = list(array_differences(net, with_arrays(net, name, **{field: other.astype(array.dtype)})))
        assert all(difference.rounding for difference in found) == rounding
        assert abs(other - array).max() <= 1e-5 * np.abs(array).max()


def test_a_shift_near_zero_may_come_from_the_rounding_of_large_numbers() -> None:
    """BatchNorm subtracts mean · scale, whose last digit may be larger than 1e-5 of what is left."""
    net = net_of_unequal_channels()
    shift = net.nodes[1].stored["shift"] + np.float32([0, 0, 2e-7, 0])
    [found] = array_differences(net, with_arrays(net, "n1", shift=shift))
    assert found.rounding


def test_zeros_of_different_sign_differ() -> None:
    net = with_arrays(make_packed_mlp((12, 4)), "affine0", shift=np.zeros(4, np.float32))
    [found] = array_differences(with_arrays(net, "affine0", shift=-np.zeros(4, np.float32)), net)
    assert (found.differing, found.rounding) == (4, True)
