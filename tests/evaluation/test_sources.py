"""Data of every form, read in order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from onebit.data import Split, make_toy
from onebit.errors import DataError, OnebitError, UsageError, WrongTypeError
from onebit.evaluation.loaders import seeded
from onebit.evaluation.sources import LoaderSamples, as_samples

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10) % 3
TENSORS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


class Pairs(Dataset):
    """A map-style data set that computes its samples."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return X[index], int(Y[index])


class Evens(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter(range(0, 10, 2))

    def __len__(self) -> int:
        return 5


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return iter([(x, int(y)) for x, y in zip(X, Y, strict=True)])


FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X, Y),
    "float64 and int32": lambda: (X.astype(np.float64), Y.astype(np.int32)),
    "a list of two": lambda: [X, Y],
    "tensors": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "tensor and array": lambda: (torch.from_numpy(X), Y),
    "columns of another order": lambda: (np.asfortranarray(X), Y),
    "data set": Pairs,
    "tensor data set": lambda: TENSORS,
    "loader": lambda: DataLoader(Pairs(), 4),
    "shuffling loader": lambda: DataLoader(TENSORS, 4, shuffle=True),
    "loader that drops": lambda: DataLoader(TENSORS, 4, drop_last=True),
    "shuffling loader that drops": lambda: DataLoader(Pairs(), 4, shuffle=True, drop_last=True),
    "workers": lambda: DataLoader(Pairs(), 4, shuffle=True, num_workers=1),
    "a random order of a subset that is all": lambda: DataLoader(Pairs(), 4, sampler=SubsetRandomSampler(range(10))),
    "no batches": lambda: DataLoader(Pairs(), 1, sampler=RandomSampler(Pairs())),
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
@settings(max_examples=40, deadline=None)
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
    loader = DataLoader(Pairs(), 2, sampler=SubsetRandomSampler([7, 2, 5]))
    assert whole(loader)[0][:, 0].tolist() == [14.0, 4.0, 10.0]


class Backwards(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter(range(9, -1, -1))

    def __len__(self) -> int:
        return 10


def test_a_sampler_of_your_own_keeps_its_order() -> None:
    loader = DataLoader(Pairs(), 4, sampler=Backwards())
    assert whole(loader)[1].tolist() == Y[::-1].tolist()
    assert not as_samples(loader).repeatable
    assert as_samples(DataLoader(Pairs(), shuffle=True)).repeatable


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


@pytest.mark.parametrize("name", ["batches", "mixed"])
def test_a_pass_left_unfinished_takes_no_random_numbers_from_the_program(name: str) -> None:
    def states() -> list[Any]:
        return [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist(), loader.generator]

    loader = DataLoader(Noisy(), batch_size=3, shuffle=True, generator=torch.Generator())
    before = states()
    passing = getattr(LoaderSamples(loader), name)(*[10] * (name == "mixed"))
    next(passing)
    assert states() == before
    random.random(), np.random.random(), torch.rand(1)
    drawn = states()
    passing.close()  # as when Python collects it, at any time
    assert states() == drawn


def test_two_threads_leave_the_random_numbers_of_the_program() -> None:
    entered, left = threading.Event(), threading.Event()

    class Slow(Pairs):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            entered.set()
            left.wait(0.05)  # without turns, the other thread begins a batch here
            return super().__getitem__(index)

    def read(dataset: Any) -> None:
        list(LoaderSamples(DataLoader(dataset, batch_size=5)).batches())

    before = random.getstate(), torch.get_rng_state()
    threads = [threading.Thread(target=read, args=(Slow(),)) for _ in range(2)]
    threads[0].start()
    entered.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_epoch_of_a_sampler_is_put_back() -> None:
    class Own(Sampler[int]):
        """Reads its epoch when the order is asked for, and has no length."""

        epoch = 7

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            return iter([(index + self.epoch) % len(X) for index in range(len(X))])

        def __len__(self) -> int:
            raise NotImplementedError

    samples = LoaderSamples(DataLoader(Pairs(), batch_size=3, sampler=Own()))
    orders = [[y.tolist() for _, y in samples.batches()] for _ in range(2)]
    assert orders[0] == orders[1] == [y.tolist() for y in torch.from_numpy(Y).split(3)]
    assert samples.loader.sampler.epoch == 7  # type: ignore[attr-defined]
    with seeded(samples.loader, seed=0, epoch=3):
        assert samples.loader.sampler.epoch == 3  # type: ignore[attr-defined]
    assert samples.loader.sampler.epoch == 7  # type: ignore[attr-defined]


def test_a_pass_does_not_end_that_of_the_user() -> None:
    loader = DataLoader(Pairs(), batch_size=3, num_workers=1, persistent_workers=True)
    given = 0
    for _ in loader:
        given += 1
        assert len(list(LoaderSamples(loader).batches())) == 4
        assert len(list(LoaderSamples(loader).mixed(9))) == 3
    assert given == 4


def test_counting_the_batches_of_a_stream_draws_nothing() -> None:
    class Drawing(Stream):
        def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
            random.random(), np.random.random(), torch.rand(1)
            return super().__iter__()

    before = random.getstate(), torch.get_rng_state()
    assert LoaderSamples(DataLoader(Drawing(), batch_size=3)).steps == 4
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_digest_is_of_bytes_shape_and_dtype() -> None:
    def of(data: Any) -> str:
        return as_samples(data).digest

    same = [of((X, Y)), of((torch.from_numpy(X), Y)), of(TENSORS), of(DataLoader(TENSORS, 3, shuffle=True))]
    assert len(set(same)) == 1
    changed = X.copy()
    changed[9, 1] += 1
    others = [(changed, Y), (X, Y + 1), (X.reshape(10, 2, 1), Y), (X.astype(np.float64), Y), (X, Y.astype(np.int32))]
    assert len({of(data) for data in others} | set(same)) == len(others) + 1


def test_the_digest_of_computed_samples_is_of_their_number_and_the_first() -> None:
    class Noisy(Pairs):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return X[index] + float(torch.rand(())), int(Y[index])

    class Unseeded(Pairs):
        noise = np.random.default_rng()

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return X[index] + self.noise.random(), int(Y[index])

    def of(data: Any) -> str:
        return as_samples(data).digest

    state = torch.get_rng_state()
    assert of(Noisy()) == of(Noisy()) != of(Pairs()) == of(DataLoader(Pairs(), 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert of(Unseeded()) == of(Unseeded()) == "loader of 10 samples"
    assert "only the number of samples" in LoaderSamples(DataLoader(Pairs())).unchecked
    assert LoaderSamples(DataLoader(TENSORS)).unchecked == ""


def test_the_digest_is_of_the_choice_of_samples() -> None:
    def of(data: Any, sampler: Any) -> str:
        return as_samples(DataLoader(data, 2, sampler=sampler)).digest

    for data in (TENSORS, Pairs()):
        samplers = [None, *(SubsetRandomSampler(part) for part in ([0, 1, 2], [0, 1, 3], np.arange(4)))]
        samplers += [WeightedRandomSampler(weights, 10) for weights in ([1.0] * 10, [2.0, *[1.0] * 9])]
        assert len({of(data, sampler) for sampler in samplers}) == len(samplers)
        assert of(data, SubsetRandomSampler(range(4))) == of(data, samplers[3])


@pytest.mark.parametrize("own", [{"collate_fn": lambda batch: default_collate(batch)}, {"sampler": Evens()}])
def test_a_sampler_or_collate_function_of_ones_own_is_not_compared(own: dict[str, Any]) -> None:
    assert (
        "the collate function of the loader are not compared" in LoaderSamples(DataLoader(TENSORS, 2, **own)).unchecked
    )


class TooLong(Stream):
    def __len__(self) -> int:
        return 4


class TooShort(Stream):
    def __len__(self) -> int:
        return 40


BAD: dict[str, tuple[Callable[[], Any], type[OnebitError], str]] = {
    "a name": (lambda: "mnist", WrongTypeError, "got 'mnist', expected a DataLoader, a torch Dataset, a pair"),
    "nothing": (lambda: None, WrongTypeError, "got None, expected a DataLoader"),
    "three": (lambda: (X, Y, Y), WrongTypeError, "got a tuple of 3, expected"),
    "lists": (lambda: ([1.0], [2]), WrongTypeError, r"inputs: got list, expected an array or a tensor: numpy.asarray"),
    "words": (lambda: (np.array(["a", "b"]), Y[:2]), DataError, r"inputs: got <U1 \(2,\), expected numbers"),
    "objects": (lambda: (X, np.array([None] * 10)), DataError, "targets: got object"),
    "lengths": (lambda: (X, Y[:4]), DataError, "got 10 inputs and 4 targets"),
    "a number": (lambda: (np.float64(3), np.float64(3)), DataError, "got a single number"),
    "no samples": (lambda: (X[:0], Y[:0]), UsageError, r"there are no samples, got inputs \(0, 2\)"),
    "an empty loader": (
        lambda: DataLoader(TENSORS, 40, drop_last=True),
        UsageError,
        "loader is empty.*drop_last drops",
    ),
    "a stream alone": (
        Stream,
        WrongTypeError,
        r"iterable data set, expected it in a loader: torch.utils.data.DataLoader",
    ),
    "three parts": (lambda: DataLoader([(1, 2, 3)] * 4, 2), DataError, "gives a list of 3, expected a pair"),
    "a dict": (lambda: DataLoader([{"x": 1.0}] * 4, 2), DataError, "gives a dict of 1, expected a pair"),
    "a short loader": (lambda: DataLoader(TooShort(), 4), DataError, "its length is 10 batches, it gave 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_data_are_refused_in_one_line(case: str) -> None:
    make, kind, message = BAD[case]
    with pytest.raises(kind, match=message) as caught:
        list(in_order(make()))
    assert "\n" not in str(caught.value)


def test_a_loader_longer_than_its_length_is_refused() -> None:
    with pytest.raises(DataError, match="its length is 1 batches, it gave 3"):
        list(in_order(DataLoader(TooLong(), 4)))


def test_the_batch_size_of_a_loader_is_its_own() -> None:
    with pytest.raises(UsageError, match=r"batch_size=5 and a DataLoader with batches of 4: leave batch_size out"):
        as_samples(DataLoader(TENSORS, 4), batch_size=5)
    assert [len(x) for x, _ in in_order(Split(*_images()), batch_size=3)] == [3, 3, 3]


def _images() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((9, 1, 2, 2), np.uint8), np.zeros(9, np.int64)
