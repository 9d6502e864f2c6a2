"""The bytes of running packed nets: as many as the plan has, in a table."""

from __future__ import annotations

import pytest

from benchmarks import packed_memory
from onebit.errors import UnknownNameError
from onebit.native import instruction_sets


@pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")
def test_the_bytes_of_a_net() -> None:
    done: list[tuple[int, int]] = []
    result = packed_memory.measure(nets=["resnet20-8bit"], isa=["portable"], on_round=lambda *at: done.append(at))
    (row,) = result["rows"]
    assert row["packed_bytes"] == 33_542
    assert 33_542 <= row["weight_bytes"] <= 1.25 * 33_542
    assert row["value_bytes"] > row["batch"] * 3 * 32 * 32
    assert done == [(1, 1)]
    assert f"{row['weight_bytes']:,}" in packed_memory.describe(result)
    with pytest.raises(UnknownNameError, match="unknown net 'resnet20'"):
        packed_memory.measure(nets=["resnet20"])
