"""A torch DataLoader as it is: its order for training, seeded by epoch, and its samples in order for evaluation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

EPOCH_SEEDS = 1_000_003
"""Distance of the seeds of two trainings; within it are those of its epochs."""


def is_iterable(dataset: Any) -> bool:
    """Whether a torch data set only gives its samples one after the other."""
    return isinstance(dataset, IterableDataset)


def loader_length(loader: DataLoader[Any]) -> int | None:
    """Batches of an epoch; None if the loader does not know."""
    try:
        return len(loader)
    except TypeError:
        return None


def sample_count(loader: DataLoader[Any]) -> int | None:
    """Samples of an epoch; None if the loader does not know."""
    source: Any = loader.dataset if is_iterable(loader.dataset) else loader.sampler
    try:
        count = len(source)
    except (TypeError, NotImplementedError):
        return None
    batches, size = loader_length(loader), loader.batch_size
    return count if batches is None or size is None or not loader.drop_last else batches * size


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
    well. The generators of the user are put back as they were.
    """
    number = (seed * EPOCH_SEEDS + epoch) % 2**63
    sampler = _index_order(loader) or loader.batch_sampler
    owners: list[Any] = [loader, *([sampler] if hasattr(sampler, "generator") else [])]
    kept = [owner.generator for owner in owners]
    states = random.getstate(), np.random.get_state()
    generator = torch.Generator().manual_seed(number)
    try:
        for owner in owners:
            owner.generator = generator
        if callable(set_epoch := getattr(sampler, "set_epoch", None)):
            set_epoch(epoch)
        random.seed(number)
        np.random.seed(number % 2**32)
        yield
    finally:
        for owner, before in zip(owners, kept, strict=True):
            owner.generator = before
        random.setstate(states[0])
        np.random.set_state(states[1])


def sequential(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same samples in the order of the data set, the last batch included.

    The loader itself if its sampler is not one of torch that visits each sample once, or draws none at random.
    """
    sampler = _index_order(loader)
    if isinstance(sampler, SubsetRandomSampler):
        order: Any = list(sampler.indices)
    elif isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(loader.dataset):  # type: ignore[arg-type]
        order = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    elif isinstance(sampler, SequentialSampler) and loader.drop_last:
        order = sampler
    else:
        return loader
    return resampled(loader, order)


def keeps_order(loader: DataLoader[Any]) -> bool:
    """Whether each pass gives the samples in the same order."""
    return isinstance(_index_order(loader), (SequentialSampler, DistributedSampler))


def resampled(loader: DataLoader[Any], order: Any) -> DataLoader[Any]:
    """A loader with the data set, batch size, collate function and workers of another one, and an order of its own."""
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=order,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def held_tensors(loader: DataLoader[Any]) -> tuple[torch.Tensor, ...] | None:
    """The tensors that a loader serves as they are; None if its data set computes its samples."""
    dataset: Any = loader.dataset
    return tuple(dataset.tensors) if type(dataset) is TensorDataset else None


def of_rank(loader: DataLoader[Any], *, rank: int, world: int) -> bool:
    """Whether the loader gives each of several processes its own part, by a DistributedSampler."""
    sampler = _index_order(loader)
    return isinstance(sampler, DistributedSampler) and (sampler.rank, sampler.num_replicas) == (rank, world)
