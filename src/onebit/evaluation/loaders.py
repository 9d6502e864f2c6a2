"""A torch DataLoader as it is: its order for training, seeded by epoch, and its samples in order for evaluation."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

EPOCH_SEEDS = 1_000_003
"""Distance between the seeds of two training runs; the seeds of the epochs of one are in between."""
_ONE_AT_A_TIME = threading.RLock()
"""Held while a batch is made from global generators: another thread would put back the states of this one."""


def is_iterable(dataset: Any) -> bool:
    """Whether a torch data set only gives its samples one after the other."""
    return isinstance(dataset, IterableDataset)


def loader_length(loader: DataLoader[Any]) -> int | None:
    """Batches of an epoch; None if the loader does not know."""
    return _length(loader)


def _length(of: Any) -> int | None:
    try:
        return len(of)
    except (TypeError, NotImplementedError):  # no `__len__`, or one that only says so
        return None


def batch_samples(loader: DataLoader[Any]) -> int | None:
    """Samples of a batch; None if the data set or a batch sampler of the user decides."""
    batches = loader.batch_sampler
    if is_iterable(loader.dataset):
        return loader.batch_size
    return batches.batch_size if type(batches) is BatchSampler else None


def sample_count(loader: DataLoader[Any]) -> int | None:
    """Samples of an epoch; None if that is not known."""
    size, streamed = batch_samples(loader), is_iterable(loader.dataset)
    source: Any = loader.dataset if streamed else loader.sampler if loader.batch_size else _index_order(loader)
    count = _length(source)
    if size is None or count is None:
        return None
    drops = loader.drop_last if streamed else getattr(loader.batch_sampler, "drop_last", False)
    return count // size * size if drops else count


def _index_order(loader: DataLoader[Any]) -> Any:
    """The sampler of samples inside of torch's own batches; None for another batch sampler or an iterable data set."""
    if is_iterable(loader.dataset):
        return None
    if loader.batch_sampler is None:  # batch_size=None: the data set gives batches
        return loader.sampler
    return loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else None


def unpromised(loader: DataLoader[Any]) -> str | None:
    """Why the order of a loader cannot be repeated, in a few words; None if `seeded` repeats it."""
    if is_iterable(loader.dataset):
        return "the order of an iterable data set is its own"
    sampler = _index_order(loader)
    if sampler is None:
        sampler = loader.batch_sampler
    if isinstance(sampler, SequentialSampler) or hasattr(sampler, "generator") or hasattr(sampler, "set_epoch"):
        if loader.persistent_workers:
            return "persistent workers keep the state of their random numbers"
        return None
    return f"the order of {type(sampler).__name__} cannot be seeded"


@contextmanager
def seeded(loader: DataLoader[Any], *, seed: int, epoch: int) -> Iterator[None]:
    """The context in which one epoch of a loader draws its random numbers from (seed, epoch).

    That is the order of a sampler with a `generator` or `set_epoch`, the seeds of the workers, and what transforms in
    this process draw from `random` and `numpy.random`; they draw from torch's generator, which the caller seeds, as
    well. The generators of the user, and the `epoch` of a sampler, are put back as they were.
    """
    number = epoch_seed(seed, epoch)
    with _drawing_from(torch.Generator().manual_seed(number), loader, epoch=epoch), seeded_globals(number):
        yield


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of what an epoch draws from other generators than torch's."""
    return (seed * EPOCH_SEEDS + epoch) % 2**63


def repeated(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader, with the same order and random transforms in each pass.

    Its random numbers are in force while it makes a batch, and not in between: a pass that is left unfinished, as by an
    error, takes nothing from the program around it. A loader has one pass of persistent workers at a time, which may be
    the user's: this one has workers of its own.
    """
    if loader.persistent_workers:
        loader = copy.copy(loader)
        loader._iterator = None
    generator = torch.Generator().manual_seed(0)
    with _ONE_AT_A_TIME, torch_seeded(), seeded_globals(0):
        inside = _states()
    batches = None
    while True:
        with _ONE_AT_A_TIME, torch_seeded(), seeded_globals(0), _drawing_from(generator, loader, epoch=0):
            _set_states(*inside)
            batches = iter(loader) if batches is None else batches
            batch = next(batches, batches)  # itself at the end
            inside = _states()
        if batch is batches:
            return
        yield batch


def _order(loader: DataLoader[Any]) -> Any:
    """The sampler that decides the order of the samples or batches."""
    sampler = _index_order(loader)  # its truth would ask for its length, which it may not have
    return loader.batch_sampler if sampler is None else sampler


@contextmanager
def _drawing_from(generator: torch.Generator, loader: DataLoader[Any], *, epoch: int) -> Iterator[None]:
    """The context in which a loader and its sampler draw from a generator instead of their own, or for an epoch."""
    sampler = _order(loader)
    set_epoch, epoch_before = getattr(sampler, "set_epoch", None), getattr(sampler, "epoch", None)
    owners: list[Any] = [loader, *([sampler] if hasattr(sampler, "generator") else [])]
    kept = [owner.generator for owner in owners]
    for owner in owners:
        owner.generator = generator
    if callable(set_epoch):
        set_epoch(epoch)
    try:
        yield
    finally:
        if callable(set_epoch) and epoch_before is not None:
            set_epoch(epoch_before)
        for owner, before in zip(owners, kept, strict=True):
            owner.generator = before


@contextmanager
def seeded_globals(number: int) -> Iterator[None]:
    """The context in which `random` and `numpy.random` start from a seed; their states are put back at the end."""
    with kept_globals():
        random.seed(number)
        np.random.seed(number % 2**32)
        yield


@contextmanager
def torch_seeded() -> Iterator[None]:
    """The context in which torch's generator of the CPU starts from 0, for transforms of a pass that trains nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def kept_globals() -> Iterator[None]:
    """Put the states of `random` and `numpy.random` back at the end of the context."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _states() -> tuple[Any, ...]:
    """The states of the global generators that transforms in this process draw from."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set_states(of_torch: Tensor, of_python: Any, of_numpy: Any) -> None:
    torch.set_rng_state(of_torch)
    random.setstate(of_python)
    np.random.set_state(of_numpy)


def sequential(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same samples in the order of the data set, the last batch included.

    The loader itself if its sampler is not one of torch that visits each sample once, or draws none at random.
    """
    sampler = _index_order(loader)
    if isinstance(sampler, SubsetRandomSampler):
        order: Any = list(sampler.indices)
    elif isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(loader.dataset):  # type: ignore[arg-type]
        order = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    elif isinstance(sampler, SequentialSampler) and getattr(loader.batch_sampler, "drop_last", False):
        order = sampler
    else:
        return loader
    return _resampled(loader, order)


def keeps_order(loader: DataLoader[Any]) -> bool:
    """Whether each pass gives the samples in the same order."""
    return isinstance(_index_order(loader), (SequentialSampler, DistributedSampler))


def _resampled(loader: DataLoader[Any], order: Any) -> DataLoader[Any]:
    """A loader with the data set, batch size, collate function and workers of another one, and an order of its own."""
    size = batch_samples(loader)
    batches: dict[str, Any] = {"batch_size": None, "sampler": order}
    if size is not None:
        batches = {"batch_sampler": BatchSampler(order, size, drop_last=False)}
    return DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        **batches,
    )


def chosen(loader: DataLoader[Any]) -> list[Tensor]:
    """What the sampler of a loader chooses samples by, beside random numbers."""
    sampler = _order(loader)
    if isinstance(sampler, SubsetRandomSampler):
        return [torch.as_tensor(list(sampler.indices))]
    return [sampler.weights] if isinstance(sampler, WeightedRandomSampler) else []


def is_known(loader: DataLoader[Any]) -> bool:
    """Whether the sampler and the collate function are torch's own, so that their samples and numbers say all."""
    usual = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
    return type(_order(loader)) in usual and loader.collate_fn in (default_collate, default_convert)


def held_tensors(loader: DataLoader[Any]) -> tuple[torch.Tensor, ...] | None:
    """The tensors that a loader serves as they are; None if its data set computes its samples."""
    dataset: Any = loader.dataset
    return tuple(dataset.tensors) if type(dataset) is TensorDataset else None


def of_rank(loader: DataLoader[Any], *, rank: int, world: int) -> bool:
    """Whether the loader gives each of several processes its own part, by a DistributedSampler."""
    sampler = _index_order(loader)
    return isinstance(sampler, DistributedSampler) and (sampler.rank, sampler.num_replicas) == (rank, world)
