"""Data of every form, read in order."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from onebit.data import make_toy
from onebit.errors import DataError, UsageError
from onebit.evaluation.sources import LoaderSamples, as_samples, batch_bounds, check_finite

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10) % 3
TENSORS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


class Pairs(Dataset):
    """A map-style data set that computes its samples."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return X[index], int(Y[index])


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return iter([(x, int(y)) for x, y in zip(X, Y, strict=True)])


FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X, Y),
    "float64 and int32": lambda: (X.astype(np.float64), Y.astype(np.int32)),
    "tensors": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "columns of another order": lambda: (np.asfortranarray(X), Y),
    "data set": Pairs,
    "tensor data set": lambda: TENSORS,
    "loader": lambda: DataLoader(Pairs(), 4),
    "shuffling loader": lambda: DataLoader(TENSORS, 4, shuffle=True),
    "loader that drops": lambda: DataLoader(TENSORS, 4, drop_last=True),
    "shuffling loader that drops": lambda: DataLoader(Pairs(), 4, shuffle=True, drop_last=True),
    "workers": lambda: DataLoader(Pairs(), 4, shuffle=True, num_workers=1),
    "stream": lambda: DataLoader(Stream(), 3),
}


def in_order(data: Any, *, batch_size: int | None = None) -> Iterator[tuple[Any, Any]]:
    return as_samples(data, batch_size=batch_size).batches(batch_size)


def whole(data: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*in_order(data, **options), strict=True)
    return torch.cat(inputs), torch.cat(targets)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_samples_in_order(form: str) -> None:
    for _ in range(2):
        inputs, targets = whole(FORMS[form]())
        assert torch.equal(inputs, torch.from_numpy(X))
        assert inputs.dtype == torch.float32
        assert torch.equal(targets, torch.from_numpy(Y))
        assert targets.dtype == torch.int64


@given(
    st.integers(1, 12), st.integers(1, 15), st.sampled_from(["float32", "float64", "uint8", "int64", "bool"]),
    st.lists(st.integers(1, 3), max_size=3), st.booleans(),
)  # fmt: skip
@settings(max_examples=25)
def test_arrays_of_any_shape_come_in_batches(count: int, size: int, dtype: str, shape: list[int], tensor: bool) -> None:
    x = np.random.default_rng(0).integers(0, 5, (count, *shape)).astype(dtype)
    given_x: Any = torch.from_numpy(x) if tensor else x
    batches = list(in_order(given_x, batch_size=size))
    assert all(targets is None for _, targets in batches)
    joined = torch.cat([inputs for inputs, _ in batches])
    assert np.array_equal(joined.numpy(), x)
    assert joined.is_contiguous()
    assert joined.dtype == (torch.float32 if dtype == "float64" and not tensor else torch.from_numpy(x).dtype)
    # a last batch of one sample joins the one before it
    assert all(len(inputs) <= size + 1 for inputs, _ in batches)


@given(count=st.integers(0, 300), batch_size=st.integers(1, 50))
def test_batches_cover_everything_once_and_none_is_a_single_sample(count: int, batch_size: int) -> None:
    bounds = batch_bounds(count, batch_size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in bounds]
    assert all(size == batch_size for size in sizes[:-1])
    if batch_size > 1 and count > 1:
        assert all(size > 1 for size in sizes)
        assert sizes[-1] <= batch_size + 1


def test_a_split_keeps_its_pixels_and_plain_strides() -> None:
    split, _ = make_toy(20, 4)
    odd = np.moveaxis(np.ascontiguousarray(np.moveaxis(split.images, 1, 3)), 3, 1)  # NHWC memory of one channel
    for data in (split, (split.images, split.labels), (odd, split.labels), (torch.from_numpy(odd), split.labels)):
        inputs, targets = whole(data, batch_size=7)
        assert np.array_equal(inputs.numpy(), split.images)
        assert np.array_equal(targets.numpy(), split.labels)
        for x, _ in in_order(data, batch_size=7):
            assert x.stride() == (64, 64, 8, 1)


def test_a_subset_is_read_in_its_own_order() -> None:
    loader = DataLoader(Pairs(), 2, sampler=SubsetRandomSampler([7, 2, 5]), drop_last=True)
    assert whole(loader)[0][:, 0].tolist() == [14.0, 4.0, 10.0]
    assert as_samples(loader).count == 3
    assert len(loader) == 1, "the loader stays as it was"
    backwards: Any = range(9, -1, -1)
    assert whole(DataLoader(Pairs(), 4, sampler=backwards))[1].tolist() == Y[::-1].tolist()


def test_dicts_and_tuples_of_a_collate_function_stay() -> None:
    def collate(samples: list[Any]) -> Any:
        x, y = torch.utils.data.default_collate(samples)
        return {"x": x, "again": (x, x)}, {"y": y}

    (inputs, targets), *_ = in_order(DataLoader(Pairs(), 4, collate_fn=collate))
    assert inputs["again"][1].shape == (4, 2)
    assert targets["y"].tolist() == [0, 1, 2, 0]


class Noisy(Pairs):
    """Samples with noise from the three generators that transforms use."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        x, y = super().__getitem__(index)
        noise = random.random() + np.random.random() + float(torch.rand(()))
        return x + np.float32(noise), y


def test_random_transforms_draw_the_same_numbers_in_each_pass() -> None:
    samples = LoaderSamples(DataLoader(Noisy(), batch_size=3, shuffle=True))
    seen = []
    for _ in range(2):
        seen.append([[x.clone() for x, _ in samples.batches()], list(samples.mixed(7))])
        random.random(), np.random.random(), torch.rand(1)
    for ours, theirs in zip(*seen, strict=True):
        assert len(ours) == len(theirs) > 0
        assert all(map(torch.equal, ours, theirs))
    before, drawn = random.getstate(), torch.get_rng_state()
    list(samples.mixed(7))
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_pass_that_never_ends_leaves_the_random_state_alone() -> None:
    samples = as_samples(DataLoader(TENSORS, batch_size=3, shuffle=True))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    batches = samples.batches()
    next(batches)
    between = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert torch.equal(between[0], before[0])
    assert between[1] == before[1]
    assert (between[2] == before[2]).all()
    torch.rand(3), random.random()
    drawn = torch.get_rng_state(), random.getstate()
    del batches  # wherever it is collected
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]


def test_the_digest_is_of_bytes_shape_and_dtype() -> None:
    def of(data: Any) -> str:
        return as_samples(data).digest

    same = [of((X, Y)), of((torch.from_numpy(X), Y)), of(TENSORS), of(DataLoader(TENSORS, 3, shuffle=True))]
    assert len(set(same)) == 1
    changed = X.copy()
    changed[9, 1] += 1
    others = [(changed, Y), (X, Y + 1), (X.reshape(10, 2, 1), Y), (X.astype(np.float64), Y), (X, Y.astype(np.int32))]
    assert len({of(data) for data in others} | set(same)) == len(others) + 1


def test_the_digest_of_computed_samples_is_of_their_number() -> None:
    assert as_samples(Pairs()).digest == as_samples(DataLoader(Pairs(), 3)).digest == "loader of 10 samples"
    assert as_samples(DataLoader(Pairs(), 3, drop_last=True)).digest == "loader of 10 samples"
    before = torch.get_rng_state()
    stream = LoaderSamples(DataLoader(Stream(), 3))
    assert (stream.digest, stream.count, stream.length) == ("loader of None batches", None, None)
    assert torch.equal(torch.get_rng_state(), before)


BAD: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "three": (lambda: (X, Y, Y), UsageError),
    "lengths": (lambda: (X, Y[:4]), DataError),
    "three parts": (lambda: DataLoader([(1, 2, 3)] * 4, 2), UsageError),
    "words": (lambda: DataLoader([("a", 1)] * 4, 2), DataError),
    "NaN": (lambda: (X * np.float32("nan"), Y), DataError),
}


@pytest.mark.parametrize("case", BAD)
def test_other_data_are_refused(case: str) -> None:
    make, kind = BAD[case]
    with pytest.raises(kind):
        list(in_order(make()))


def test_only_numbers_that_are_not_finite_are_refused() -> None:
    check_finite({"huge": torch.full((4,), 3e38), "tokens": torch.zeros(2, dtype=torch.int64)}, "data")
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(DataError, match="inputs"):
            check_finite((torch.zeros(2), torch.tensor([1.0, wrong])), "data")
    check_finite(torch.full((2,), math.nan, device="meta"), "data", wait=False)  # a training step waits for no device
