"""Batches of images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit.errors import UsageError
from onebit.evaluation.batches import batch_bounds


@given(count=st.integers(0, 300), batch_size=st.integers(1, 50))
def test_batches_cover_everything_once_and_none_is_a_single_sample(count: int, batch_size: int) -> None:
    bounds = batch_bounds(count, batch_size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in bounds]
    assert all(size == batch_size for size in sizes[:-1])
    if batch_size > 1 and count > 1:
        assert all(size > 1 for size in sizes)
        assert sizes[-1] <= batch_size + 1


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(UsageError, match="batch_size must be 1 or more"):
        batch_bounds(10, batch_size)
