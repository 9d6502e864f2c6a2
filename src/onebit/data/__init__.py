"""Data sets as uint8 arrays: find or fetch their files, check them, split, augment. Never imports torch."""

from __future__ import annotations

from onebit.data.augment import Augmentation, augment_images
from onebit.data.batches import TrainingImages
from onebit.data.datasets import DATASETS, FetchedFiles, fetch_dataset, load_dataset
from onebit.data.fetch import OfficialFile, OfficialFiles, cache_dir, find_or_fetch
from onebit.data.images import Images, StreamedImages, prefetched, read_batches
from onebit.data.splits import Dataset, DatasetEntry, Labels, LoadedFiles, Progress, Split, hold_out
from onebit.data.toy import make_toy

__all__ = [
    "DATASETS",
    "Augmentation",
    "Dataset",
    "DatasetEntry",
    "FetchedFiles",
    "Images",
    "Labels",
    "LoadedFiles",
    "OfficialFile",
    "OfficialFiles",
    "Progress",
    "Split",
    "StreamedImages",
    "TrainingImages",
    "augment_images",
    "cache_dir",
    "fetch_dataset",
    "find_or_fetch",
    "hold_out",
    "load_dataset",
    "make_toy",
    "prefetched",
    "read_batches",
]
