"""Files of nets with several inputs: round trips, forgeries, damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onebit.errors import UsageError
from onebit.packed import PackedNet, dumps, loads
from onebit.packed.difference import graph_difference
from support.hostile_files import assert_refused, join, split
from support.packed_nets import coded_input, four_inputs

NET = four_inputs()
GOOD = dumps(NET)


def test_round_trip() -> None:
    back = loads(GOOD)
    assert dumps(back) == GOOD
    assert [*back.inputs] == [*NET.inputs] == ["first", "bytes", "second", "vector"]
    for name, spec in NET.inputs.items():
        for array, again in ((spec.mean, back.inputs[name].mean), (spec.std, back.inputs[name].std)):
            assert (array is None) == (again is None)
            assert array is None or np.array_equal(array, again)  # type: ignore[arg-type]
    assert graph_difference(NET, back) is None
    other = PackedNet(inputs={**NET.inputs, "second": coded_input((2, 6, 1), 3)}, nodes=NET.nodes, output="y")
    assert "input mean" in str(graph_difference(NET, other))
    with pytest.raises(UsageError, match="first"):
        _ = back.input


def with_inputs(change: Callable[[dict[str, Any]], Any]) -> bytes:
    header, graph, tensors = split(GOOD)
    changed = change(graph.pop("inputs"))
    return join(header, graph | changed, tensors)


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        (lambda specs: {"inputs": specs, "input": specs["first"]}, "mean"),
        (lambda specs: {"input": specs["first"]}, "mean"),
        (lambda specs: {"inputs": specs | {"more": {"shape": [1], "coding": "integer"}}}, "'more'"),
        (lambda specs: {"inputs": specs | {"a": {"shape": [1], "coding": "integer"}}}, "repeats"),
        (lambda specs: {"inputs": specs | {"\x1b[2J": {"shape": [1], "coding": "integer"}}}, "inputs"),
        (lambda specs: {"inputs": specs | {f"n{k}": {"shape": [1], "coding": "integer"} for k in range(97)}}, "inputs"),
        (lambda specs: {"inputs": specs | {"first": specs["first"] | {"coding": "integer"}}}, "mean"),
        (lambda specs: {"inputs": specs | {"bytes": specs["bytes"] | {"coding": "standardise"}}}, "mean"),
    ],
)
def test_forged_inputs_are_refused(change: Callable[[dict[str, Any]], Any], noun: str) -> None:
    loads(with_inputs(lambda specs: {"inputs": specs}))
    assert_refused(with_inputs(change), noun)
