"""Batches of images."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onebit.evaluation.sources import batch_bounds


@given(count=st.integers(0, 300), batch_size=st.integers(1, 50))
def test_batches_cover_everything_once_and_none_is_a_single_sample(count: int, batch_size: int) -> None:
    bounds = batch_bounds(count, batch_size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in bounds]
    assert all(size == batch_size for size in sizes[:-1])
    if batch_size > 1 and count > 1:
        assert all(size > 1 for size in sizes)
        assert sizes[-1] <= batch_size + 1
