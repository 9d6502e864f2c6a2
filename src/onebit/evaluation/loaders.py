"""A torch DataLoader: seeded by epoch for training, in the order of its data set for evaluation."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler

EPOCH_SEEDS = 1_000_003
"""Distance between the epoch seeds of two training runs."""


def known_length(of: Any) -> int | None:
    """The length; None if it has none."""
    try:
        return len(of)
    except (TypeError, NotImplementedError):  # without `__len__`, or not implemented
        return None


def batch_samples(loader: DataLoader[Any]) -> int | None:
    """Samples of a batch; None if the data set or a custom batch sampler decides."""
    return loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)


def sampler_of(loader: DataLoader[Any]) -> Any:
    """The sampler of the samples, or of the batches."""
    batches = loader.batch_sampler
    return loader.sampler if batches is None else getattr(batches, "sampler", batches)


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch for generators other than torch's."""
    return (seed * EPOCH_SEEDS + epoch) % 2**63


@contextmanager
def seeded(loader: DataLoader[Any], number: int, epoch: int) -> Iterator[None]:
    """The context in which the generators of a loader and its sampler start from a seed.

    They decide the order of a sampler with a `generator` or `set_epoch`, and the seeds of the workers.
    """
    sampler = sampler_of(loader)
    owners: list[Any] = [loader, *([sampler] if hasattr(sampler, "generator") else [])]
    before = [owner.generator for owner in owners]
    generator = torch.Generator().manual_seed(number)
    for owner in owners:
        owner.generator = generator
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    try:
        yield
    finally:
        for owner, kept in zip(owners, before, strict=True):
            owner.generator = kept


def repeated(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader, with the same order and random transforms in each pass.

    The caller's random state is unchanged between two batches.
    """
    batches: Iterator[Any] | None = None
    states: Any = None
    loader, end = copy.copy(loader), object()
    vars(loader).update(_iterator=None)  # persistent workers serve one pass at a time, that of a training may go on
    with seeded(loader, 0, 0):
        while True:
            with torch.random.fork_rng(devices=[]), kept_globals(0):
                if batches is None:
                    torch.default_generator.manual_seed(0)
                    batches = iter(loader)
                else:
                    torch.set_rng_state(states[0])
                    random.setstate(states[1])
                    np.random.set_state(states[2])
                if (batch := next(batches, end)) is end:
                    return
                states = torch.get_rng_state(), random.getstate(), np.random.get_state()
            yield batch


def sequential(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same samples in the order of the data set, the last batch included.

    Custom samplers, and those that do not visit each sample once, keep their order.
    """
    if type(loader.batch_sampler) is not BatchSampler:
        return loader
    order = sampler_of(loader)
    if isinstance(order, SubsetRandomSampler):
        order = list(order.indices)
    elif isinstance(order, RandomSampler) and not order.replacement and len(order) == known_length(loader.dataset):
        order = range(len(order))
    batches = BatchSampler(order, loader.batch_sampler.batch_size, drop_last=False)
    made = copy.copy(loader)
    vars(made).update(sampler=order, batch_sampler=batches, drop_last=False)
    return made


@contextmanager
def kept_globals(seed: int | None = None) -> Iterator[None]:
    """Seed `random` and `numpy.random` for the context, and restore their states at its end."""
    states = random.getstate(), np.random.get_state()
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
