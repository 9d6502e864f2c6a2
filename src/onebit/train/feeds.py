"""The batches of each training epoch: from images with augmentation, from arrays, or from a loader."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DistributedSampler

from onebit.common.augmentation import Augmentation
from onebit.data import TrainingImages, TrainingSamples, prefetched
from onebit.data.tiles import mirrored
from onebit.data.training_images import draw
from onebit.errors import DataError, UsageError
from onebit.evaluation.loaders import epoch_seed, kept_globals, sampler_of, seeded
from onebit.evaluation.losses import check_labels
from onebit.evaluation.sources import ArraySamples, LoaderSamples, parts_of
from onebit.evaluation.trees import mapped, size_of
from onebit.train.ranks import Ranks

Batch = tuple[Any, Any, int]
"""Inputs and targets of this rank on its device, and the number of samples over all ranks."""
Chosen = Sequence[tuple[npt.NDArray[np.int64], slice]]
"""For each batch, the indices of its samples over all ranks, and the slice of this rank."""

SHARE_OF_FREE_MEMORY = 0.25
"""Share of the free GPU memory that images may use; the net needs the rest."""
GROWTH = 4
"""Growing images gain this many pixels per step."""


@dataclass(kw_only=True)
class Feed:
    """A source of training batches: passes over all samples, which depend on (seed, number of the pass) only.

    Args:
        length: batches of a pass; None if unknown.
        steps: batches of an epoch. If these are not a pass, each epoch has the next ones of an endless row of passes.
        classes: of labels in a loader, and the label that is ignored; None for other targets.
    """

    device: torch.device
    seed: int
    ranks: Ranks
    length: int | None
    steps: int
    classes: tuple[int, int | None] | None = field(default=None, init=False)
    _row: Generator[Batch] | None = field(default=None, init=False)

    def batches(self, number: int, steps: int | None) -> Iterator[Batch]:
        """The first `steps` batches of a pass (1, 2, …), None for all; the last one may be shorter."""
        raise NotImplementedError

    def epoch(self, epoch: int, *, steps: int) -> Iterator[Batch]:
        """The first `steps` batches of an epoch (1, 2, …); unless epochs are passes, call it once for each."""
        if self.steps != self.length and self._row is None:  # the first epoch, or that after a checkpoint
            before = (epoch - 1) * self.steps
            passes, before = divmod(before, self.length) if self.length else (0, before)
            self._row = self._endless(passes + 1)
            with torch.random.fork_rng(devices=[]), kept_globals(0):
                next(islice(self._row, before, before), None)
        # also for transforms, and models whose forward pass draws from them
        with kept_globals(epoch_seed(self.seed, epoch)):
            yield from self.batches(epoch, steps) if self._row is None else islice(self._row, steps)

    def _endless(self, number: int) -> Generator[Batch]:
        """The batches of all passes from this one on."""
        while True:
            yield from self.batches(number, self.length)
            number += 1

    def close(self) -> None:
        """End a pass that goes on, which has put its generators into the user's loader."""
        if self._row is not None:
            self._row.close()


@dataclass(kw_only=True)
class SampleFeed(Feed):
    """Shuffled samples: augmented images with labels or masks, or arrays of any dtype and shape.

    Args:
        bounds: (start, stop) of each batch in the order of a pass.
    """

    samples: TrainingSamples | ArraySamples
    bounds: list[tuple[int, int]]

    @cached_property
    def _on_device(self) -> DeviceBatches:
        assert isinstance(self.samples, TrainingSamples)
        return DeviceBatches(self.samples, self.device)

    def batches(self, number: int, steps: int | None) -> Iterator[Batch]:
        rng, samples, bounds = np.random.default_rng([self.seed, number]), self.samples, self.bounds[:steps]
        order = rng.permutation(len(samples)) if isinstance(samples, ArraySamples) else samples.order(rng)
        chosen = [(order[start:stop], self.ranks.part(stop - start)) for start, stop in bounds]
        batches: Iterator[tuple[Any, Any]]
        if isinstance(samples, ArraySamples):
            pairs = samples.batches(indices=[indices[part] for indices, part in chosen])
            batches = (mapped(lambda tensor: sent(tensor, self.device), pair) for pair in pairs)
        else:
            batches = self._on_device.batches(chosen, rng)
        for (indices, _), (x, y) in zip(chosen, batches, strict=True):
            yield x, y, len(indices)


@dataclass(kw_only=True)
class LoaderFeed(Feed):
    """The batches of a loader; each pass seeds its order."""

    samples: LoaderSamples

    def __post_init__(self) -> None:
        ranks, sampler = self.ranks, sampler_of(self.samples.loader)
        divided = isinstance(sampler, DistributedSampler) and sampler.num_replicas == ranks.world
        if ranks.world > 1 and not (divided and sampler.rank == ranks.rank):
            raise UsageError(f"{ranks.world} processes need a loader with sampler=DistributedSampler(dataset)")

    def batches(self, number: int, steps: int | None) -> Iterator[Batch]:
        count, name, loader = 0, self.samples.name, self.samples.loader
        with seeded(loader, epoch_seed(self.seed, number), number):
            for batch in islice(loader, steps):
                count += 1
                parts = parts_of(batch, name, wait=False)
                if self.classes is not None and isinstance(parts[1], Tensor):
                    check_labels(parts[1], *self.classes)
                x, y = mapped(lambda tensor: tensor.to(self.device, non_blocking=True), parts)
                yield x, y, size_of(x) * self.ranks.world
        if count < (steps or 1):
            raise DataError(f"{name}: the loader gave {count} batches, its length is {self.length or 'unknown'}")


# ---------------------------------------------------------------------------------------------- batches on a device
def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device."""
    if device.type == "cuda" and not tensor.is_cuda:  # a copy from pinned memory runs beside the computation
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class DeviceBatches:
    """The batches of `samples` on a device.

    A GPU keeps all images and labels in its memory if they fit, and augments them itself, so that no optimizer step
    waits for a copy. Otherwise a thread prepares the next batches. On a CPU numpy makes them, which is faster there.
    All three give the same pixels for the same rng.
    """

    def __init__(self, samples: TrainingSamples, device: torch.device) -> None:
        self._samples, self._device, self._pixels = samples, device, None
        pixels = samples.images.pixels if isinstance(samples.images, TrainingImages) else None
        if pixels is not None and _fits(pixels.nbytes, device):
            self._pixels, self._labels = (torch.from_numpy(each).to(device) for each in (pixels, samples.labels))

    def batches(self, chosen: Chosen, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, C, H, W), uint8, and labels of each batch. Do not use `rng` before the iterator ends."""
        images = self._samples.images
        if self._pixels is None or not isinstance(images, TrainingImages):
            pairs = self._samples.batches(chosen, rng)
            for pixels, labels in pairs if self._device.type == "cpu" else prefetched(pairs):
                yield sent(torch.from_numpy(pixels), self._device), sent(torch.from_numpy(labels), self._device)
            return
        tables = []
        for indices, part in chosen:
            draws = draw(images.augmentation, len(indices), size=images.size, rng=rng, part=part)
            tables.append(np.column_stack([indices[part], *draws[1:]]))
        # one copy for all batches: a copy per batch would take longer than the augmentation
        on_device = torch.from_numpy(np.concatenate(tables)).to(self._device)
        for table in on_device.split([len(table) for table in tables]):
            yield self._changed(self._pixels, images, table), self._labels[table[:, 0]]

    def _changed(self, held: Tensor, images: TrainingImages, table: Tensor) -> Tensor:
        """The images of a batch, (N, C, H, W); `table` (N, 6) has the rows and the fields of `Draws` except `crops`."""
        augmentation, (height, width) = images.augmentation, images.size
        rows, top, left, flipped, cut_row, cut_column = table.unsqueeze(2).unbind(1)
        y = torch.arange(height, device=self._device)
        x = torch.arange(width, device=self._device)
        # the position of each pixel in the image before padding; the window is mirrored after cropping
        from_y = y + top - augmentation.crop_padding
        from_x = torch.where(flipped.bool(), width - 1 - x, x) + left - augmentation.crop_padding
        kept_y, kept_x = (from_y >= 0) & (from_y < height), (from_x >= 0) & (from_x < width)
        from_y, from_x = mirrored(from_y, height), mirrored(from_x, width)  # with zero padding, any valid position
        pixels = held[rows.unsqueeze(2), from_y.unsqueeze(2), from_x.unsqueeze(1)]  # (N, H, W, C)
        kept = kept_y.unsqueeze(2) & kept_x.unsqueeze(1) if augmentation.padding_mode == "zero" else None
        if augmentation.cutout:
            cut = _covered(y, cut_row, augmentation).unsqueeze(2) & _covered(x, cut_column, augmentation).unsqueeze(1)
            kept = ~cut if kept is None else kept & ~cut
        if kept is not None:
            pixels = pixels * kept[..., None]
        changed = pixels.permute(0, 3, 1, 2)
        return changed if images.channels_last else changed.contiguous()


def _covered(position: Tensor, center: Tensor, augmentation: Augmentation) -> Tensor:
    """Whether the cutout square around each center, (N, 1), covers each position: (N, size)."""
    first = center - augmentation.cutout // 2
    return (position >= first) & (position < first + augmentation.cutout)


def _fits(size: int, device: torch.device) -> bool:
    """Whether the device is a GPU whose memory has room for `size` bytes of images."""
    return device.type == "cuda" and size <= SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]


# -------------------------------------------------------------------------------------------------------------- growing
def side_at(augmentation: Augmentation, *, side: int, epoch: int, epochs: float) -> int:
    """The shorter side of the images in an epoch (1, 2, …).

    It grows linearly from `first_size` to `side` over the share `growing` of the epochs, in steps of four pixels. The
    last epoch always has full size: BatchNorm needs statistics of full images.
    """
    first, share = augmentation.first_size, (epoch - 1) / (augmentation.growing * epochs)
    if first is None or share >= 1 or epoch >= epochs:
        return side
    return first + int(share * (side - first)) // GROWTH * GROWTH


def images_of_epoch(images: Tensor, augmentation: Augmentation, *, epoch: int, epochs: float) -> Tensor:
    """Resize images (N, C, H, W) for the epoch, see `side_at`: bilinear, antialiased, same dtype and layout."""
    height, width = images.shape[2:]
    shorter = min(height, width)
    side = side_at(augmentation, side=shorter, epoch=epoch, epochs=epochs)
    if side == shorter:
        return images
    size = (round(height * side / shorter), round(width * side / shorter))
    if images.dtype == torch.uint8 and images.device.type != "cpu":  # torch resizes floats only there
        return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round_().to(torch.uint8)
    return F.interpolate(images, size, mode="bilinear", antialias=True)
