"""The batches of each training epoch: of images that can be augmented, of arrays, and of a loader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from onebit.data import TrainingSamples
from onebit.errors import DataError, UsageError
from onebit.evaluation.loaders import epoch_seed, kept_globals, sampler_of, seeded
from onebit.evaluation.nested import mapped, size_of
from onebit.evaluation.sources import ArraySamples, LoaderSamples, parts_of
from onebit.train.device_batches import DeviceBatches, sent
from onebit.train.ranks import Ranks

Batch = tuple[Any, Any, int]
"""Inputs and targets of this rank on its device, and the number of samples over all ranks."""


@dataclass
class SampleFeed:
    """Samples in a random order: images with labels or masks, which are augmented, or arrays of any dtype and shape.

    Args:
        bounds: (start, stop) of each batch in the order of an epoch.
    """

    samples: TrainingSamples | ArraySamples
    bounds: list[tuple[int, int]]
    device: torch.device
    seed: int
    ranks: Ranks

    @property
    def steps(self) -> int:
        return len(self.bounds)

    @cached_property
    def _on_device(self) -> DeviceBatches:
        assert isinstance(self.samples, TrainingSamples)
        return DeviceBatches(self.samples, self.device)

    def epoch(self, epoch: int, *, steps: int) -> Iterator[Batch]:
        """The first `steps` batches of an epoch; the last one of an epoch may be shorter."""
        rng, samples, bounds = np.random.default_rng([self.seed, epoch]), self.samples, self.bounds[:steps]
        order = rng.permutation(len(samples)) if isinstance(samples, ArraySamples) else samples.order(rng)
        chosen = [(order[start:stop], self.ranks.part(stop - start)) for start, stop in bounds]
        batches: Iterator[tuple[Any, Any]]
        if isinstance(samples, ArraySamples):
            made = samples.batches(indices=[indices[part] for indices, part in chosen])
            batches = ((sent(x, self.device), sent(y, self.device)) for x, y in made)
        else:
            batches = self._on_device.batches(chosen, rng)
        with kept_globals(epoch_seed(self.seed, epoch)):  # for a forward that draws from them
            for (indices, _), (x, y) in zip(chosen, batches, strict=True):
                yield x, y, len(indices)


@dataclass
class LoaderFeed:
    """The batches of a loader, whose order and random transforms are seeded by epoch."""

    samples: LoaderSamples
    device: torch.device
    seed: int
    ranks: Ranks

    def __post_init__(self) -> None:
        ranks, sampler = self.ranks, sampler_of(self.samples.loader)
        divided = isinstance(sampler, DistributedSampler) and sampler.num_replicas == ranks.world
        if ranks.world > 1 and not (divided and sampler.rank == ranks.rank):
            raise UsageError(f"{ranks.world} processes need a loader with sampler=DistributedSampler(dataset)")

    @property
    def steps(self) -> int:
        return self.samples.steps

    def epoch(self, epoch: int, *, steps: int) -> Iterator[Batch]:
        given, name = 0, self.samples.name
        with seeded(self.samples.loader, seed=self.seed, epoch=epoch):
            for batch in islice(self.samples.loader, steps):
                given += 1
                parts = parts_of(batch, name, wait=False)
                x, y = mapped(lambda tensor: tensor.to(self.device, non_blocking=True), parts)
                yield x, y, size_of(x) * self.ranks.world
        if given < steps:
            raise DataError(f"{name}: the loader gave {given} batches, its length is {self.steps}")


Feed = SampleFeed | LoaderFeed
"""A source of training batches; the same (seed, epoch) give the same ones."""
