"""`onebit bench NET.1bit`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onebit.native import instruction_sets, plan
from onebit.packed import Dense, Flatten, InputSpec, PackedNet, save
from onebit.packed.bits import pack_signs
from support.command_line import Onebit, Outcome

FAST = ("--rounds", "2", "--seconds", "0.0001", "--batches", "1", "3")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A packed net of one layer."""
    signs = pack_signs(np.where(np.arange(48).reshape(3, 16) % 3, 1, -1))
    nodes = (
        Flatten(inputs=("input",), output="x"),
        Dense(inputs=("x",), output="sums", signs=signs, in_features=16),
    )
    save(PackedNet(inputs={"input": InputSpec(shape=(1, 4, 4))}, nodes=nodes, output="sums"), tmp_path / "net.1bit")
    return tmp_path / "net.1bit"


def variants(outcome: Outcome) -> list[tuple[int, str]]:
    assert outcome.status == 0, outcome.err
    return [(row["batch"], row["variant"]) for row in outcome.json["rows"]]


def test_every_variant_is_timed(onebit: Onebit, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEBIT_NATIVE", raising=False)
    done = onebit("bench", net, *FAST, "--json")
    assert variants(done) == [(batch, name) for batch in (1, 3) for name in ("numpy", *instruction_sets())]
    facts = done.json
    assert (facts["net"], facts["threads"], facts["rounds"]) == (str(net), 1, 2)
    for row in facts["rows"]:
        assert row["us"] >= row["fastest_us"] > 0
        numpy = next(of for of in facts["rows"] if of["batch"] == row["batch"])
        assert row["numpy_speedup"] == pytest.approx(numpy["us"] / row["us"])
    assert done.err == ""
    columns, first, *_ = onebit("bench", net, *FAST).out.splitlines()[1:]
    assert columns.split()[:2] == ["batch", "variant"]
    assert first.split()[:2] == ["1", "numpy"]


@pytest.mark.parametrize("switched_off", [True, False])
def test_numpy_without_kernels(onebit: Onebit, net: Path, monkeypatch: pytest.MonkeyPatch, switched_off: bool) -> None:
    if switched_off:
        monkeypatch.setenv("ONEBIT_NATIVE", "0")
    else:
        monkeypatch.setitem(plan._MAKERS, Dense, None)
    assert variants(onebit("bench", net, *FAST, "--json")) == [(1, "numpy"), (3, "numpy")]
