"""Readers of files, fed with damaged and forged ones: each reads or refuses with one line, in bounded time."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from onebit.errors import OnebitError
from support.hostile_runs import bounded, folder, outcome, run
from support.readers import READERS, facts_of, read_facts, resume

__all__ = ["folder", "run"]


def torch_bytes(value: Any) -> bytes:
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


@pytest.fixture(scope="module")
def goods(run: Path) -> dict[str, bytes]:
    """The good bytes of each reader."""
    return {name: reader.good(run) for name, reader in READERS.items()}


@pytest.mark.parametrize("count", [24, pytest.param(1000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(
    name: str, count: int, goods: dict[str, bytes], run: Path, folder: Path
) -> None:
    reader, seen = READERS[name], Counter[str]()

    def outcome_of(content: bytes) -> str:
        return outcome(lambda: reader.read(content, folder, run), reader.error)

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=True))
    def check(rng: Random) -> None:
        seen[outcome_of(reader.change(goods[name], rng))] += 1

    assert outcome_of(goods[name]) == "read"
    check()
    assert seen["refused"]


OTHERS = {
    **{
        "empty": b"",
        "text": b"epoch 1 loss 0.3\n" * 20,
        "zeros": bytes(1000),
        "zip of nothing": b"PK\x05\x06" + bytes(18),
    },
    **{"list": b"[1]", "null": b"null", "deep": b"[" * 50_000},
    **{f"torch {value}": torch_bytes(value) for value in ([1, 2], None)},
}
READ_TOO = {
    **{"config.json": "recipe", "result.json": "config|facts", "idx, compressed": "idx", "pickle": "cifar pickle"},
    **{"checkpoint": "weights|resumed", "resumed checkpoint": "checkpoint", "recipe.yaml": "recipe|half"},
}
"""What readers read besides their own files; formats of one first word count as the same. Half a recipe may be one."""


@pytest.mark.parametrize("name", READERS)
def test_half_a_file_and_files_of_other_kinds_are_refused(
    name: str, goods: dict[str, bytes], run: Path, folder: Path
) -> None:
    reader, good = READERS[name], goods[name]
    others = {other: content for other, content in goods.items() if len(content) < 10**5}
    for other, content in {**OTHERS, **others, "half": good[: len(good) // 2]}.items():
        if other != name and not re.match(READ_TOO.get(name, name.split()[0]), other):
            assert outcome(lambda: reader.read(content, folder, run), reader.error) == "refused", other  # noqa: B023


# --------------------------------------------------------------------------------------------------------------- states
BOMBS: list[Any] = [[1], ["loop"]]
for _ in range(60):
    BOMBS[0] = [BOMBS[0], BOMBS[0]]  # 2⁶⁰ values, deep
BOMBS[1].append(BOMBS[1])
BOMBS.append([[[[[1] * 99] * 99] * 99] * 99])
STRANGE: list[Any] = [*BOMBS, {"a": [torch.zeros(2)]}, None, True, -1, 0, 10**18, 1e300, float("nan"), "x", [], {},
                      (1, 2), [[1]], {"a": 1}, b"ab", torch.zeros(()), torch.zeros(3, dtype=torch.int8),
                      torch.empty(2, device="meta"), torch.zeros(1).expand(10**12), torch.zeros(0)]  # fmt: skip


def positions_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from positions_of(item)


@pytest.mark.parametrize("count", [26, pytest.param(1000, marks=pytest.mark.nightly)])
def test_states_of_another_kind_are_resumed_or_refused(run: Path, folder: Path, count: int) -> None:
    """One value of a checkpoint is another one."""
    seen = Counter[str]()

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=True), st.sampled_from(range(len(STRANGE))))
    def check(rng: Random, strange: int) -> None:
        state = torch.load(run / "last.ckpt", weights_only=True)
        state["rows"] = state["rows"][:1]
        part = rng.choice(sorted(state))  # each part as often as another one, however much it holds
        container, key = rng.choice([(state, part), *positions_of(state[part])])
        container[key] = STRANGE[strange]
        torch.save(state, folder / "last.ckpt")
        (folder / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
        seen[outcome(lambda: resume(folder))] += 1

    check()
    assert seen["refused"]


@pytest.mark.parametrize("size", [0, -1, 10**12, 10**30])
def test_a_weight_file_with_images_of_no_sensible_size_is_refused(run: Path, folder: Path, size: int) -> None:
    facts = json.loads(facts_of(run))
    with bounded(), pytest.raises(OnebitError, match="images"):
        read_facts(json.dumps(facts | {"input_shape": [size, 8, 8]}).encode(), folder, run)


@pytest.mark.parametrize(
    ("part", "bomb"),
    [
        ("optimizer", BOMBS[0]),
        ("setting", BOMBS[1]),
        ("model", BOMBS[2]),
        ("setting", BOMBS[2]),
        ("setting", torch.zeros(1).expand(10**12)),
    ],
)
def test_values_without_end_in_a_checkpoint_are_refused(run: Path, folder: Path, part: str, bomb: Any) -> None:
    state = torch.load(run / "last.ckpt", weights_only=True)
    state["rows"] = state["rows"][:1]
    for values in state["optimizer"]["state"].values() if part == "optimizer" else [state[part]]:
        values["more"] = bomb
    torch.save(state, folder / "last.ckpt")
    with bounded(), pytest.raises(OnebitError, match="too many values"):
        resume(folder)
