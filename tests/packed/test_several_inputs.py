"""Files of nets with several inputs: round trips, forgeries, damage."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onebit.errors import FormatError, NotBinaryError, UsageError
from onebit.packed import Add, Dense, Flatten, InputSpec, PackedNet, Relu, Threshold, dumps, loads
from onebit.packed.bits import pack_signs
from onebit.packed.difference import graph_difference
from onebit.runtime import run
from onebit.runtime.timing import noise
from support.executors import EXECUTORS, chosen
from support.hostile_files import assert_refused, damaged, join, mutated, renumbered, sound, split


def coded(shape: tuple[int, ...], seed: int) -> InputSpec:
    rng = np.random.default_rng(seed)
    mean, std = (rng.uniform(50, 150, shape[0]).astype(np.float32) for _ in range(2))
    return InputSpec(shape=shape, coding="standardise", mean=mean, std=std)


def make_net() -> PackedNet:
    """Two standardized images, pixels as integers, and a vector."""
    rng = np.random.default_rng(0)
    inputs = {
        "first": coded((3, 2, 2), 1),
        "bytes": InputSpec(shape=(7,)),
        "second": coded((2, 6, 1), 2),
        "vector": InputSpec(shape=(9,), dtype="float32", coding="values"),
    }

    def signs(inputs: int) -> dict[str, Any]:
        return {"signs": pack_signs(rng.choice(np.array([-1, 1], np.int8), (9, inputs))), "in_features": inputs}

    threshold = {"threshold": rng.integers(-50, 50, 9).astype(np.int32), "direction": np.ones(9, np.int8)}
    nodes = (
        Flatten(inputs=("first",), output="flat"),
        Dense(inputs=("flat",), output="a", **signs(12)),
        Flatten(inputs=("second",), output="flat2"),
        Dense(inputs=("flat2",), output="b", **signs(12)),
        Dense(inputs=("bytes",), output="c", **signs(7)),
        Threshold(inputs=("c",), output="d", **threshold),
        Add(inputs=("a", "b"), output="e"),
        Add(inputs=("e", "d"), output="f"),
        Relu(inputs=("vector",), output="g"),
        Add(inputs=("f", "g"), output="y"),
    )
    return PackedNet(inputs=inputs, nodes=nodes, output="y", name="four inputs")


NET = make_net()
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
    other = PackedNet(inputs={**NET.inputs, "second": coded((2, 6, 1), 3)}, nodes=NET.nodes, output="y")
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
        (lambda specs: {}, "inputs"),
        (lambda specs: {"inputs": []}, "inputs"),
        (lambda specs: {"inputs": {}}, "mean"),
        (lambda specs: {"inputs": specs, "input": specs["first"]}, "mean"),
        (lambda specs: {"input": specs["first"]}, "mean"),
        (lambda specs: {"inputs": {name: spec for name, spec in specs.items() if name != "vector"}}, "'vector'"),
        (lambda specs: {"inputs": specs | {"more": {"shape": [1], "coding": "integer"}}}, "'more'"),
        (lambda specs: {"inputs": specs | {"a": {"shape": [1], "coding": "integer"}}}, "repeats"),
        (lambda specs: {"inputs": specs | {"\x1b[2J": {"shape": [1], "coding": "integer"}}}, "inputs"),
        (lambda specs: {"inputs": specs | {f"n{k}": {"shape": [1], "coding": "integer"} for k in range(97)}}, "inputs"),
        (lambda specs: {"inputs": specs | {"first": None}}, "object"),
        (lambda specs: {"inputs": specs | {"first": specs["first"] | {"shape": [-3, 2, 2]}}}, "shape"),
        (lambda specs: {"inputs": specs | {"first": specs["first"] | {"shape": "3"}}}, "shape"),
        (lambda specs: {"inputs": specs | {"first": specs["first"] | {"shape": [2**62]}}}, "mean"),
        (lambda specs: {"inputs": specs | {"first": specs["first"] | {"shape": [3.0, 2, 2]}}}, "shape"),
        (lambda specs: {"inputs": specs | {"first": specs["first"] | {"coding": "integer"}}}, "mean"),
        (lambda specs: {"inputs": specs | {"bytes": specs["bytes"] | {"coding": "standardise"}}}, "mean"),
    ],
)
def test_forged_inputs_are_refused(change: Callable[[dict[str, Any]], Any], noun: str) -> None:
    loads(with_inputs(lambda specs: {"inputs": specs}))
    assert_refused(with_inputs(change), noun)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.nightly)])
def test_damage_is_refused_or_runs_with_the_same_bits_everywhere(count: int) -> None:
    rng, outcomes = random.Random(0), {"refused": 0, "sound": 0}
    changes = (mutated, renumbered, respecified, lambda good, rng: damaged(good, rng, header_only=True))
    for index in range(count):
        back = sound(changes[index % len(changes)](GOOD, rng))
        outcomes["refused" if back is None else "sound"] += 1
        if back is not None:
            assert_executors_agree(back)
    assert min(outcomes.values()) > count / 20, outcomes


def respecified(good: bytes, rng: random.Random) -> bytes:
    """A file with other digits, codings or dtypes in its inputs."""
    header, graph, tensors = split(good)
    text = json.dumps(graph["inputs"])
    words = rng.choice([["standardise", "integer", "values", "float32", "uint8", "first", "second"], [*"2367940"]])
    here, there = rng.choice(words), rng.choice(words)
    return join(header, graph | {"inputs": json.loads(text.replace(here, there, 1))}, tensors)


def assert_executors_agree(net: PackedNet) -> None:
    given = noise(net, 3)
    results = []
    for executor in EXECUTORS:
        with chosen(executor):
            try:
                results.append(np.asarray(run(net, given)).tobytes())
            except (FormatError, NotBinaryError) as error:
                results.append(type(error).__name__.encode())
    assert len(set(results)) == 1
