"""Data sets as uint8 arrays: finds or downloads their files, checks, splits and augments them. Never imports torch."""

from __future__ import annotations

from onebit.common.augmentation import Augmentation
from onebit.data.datasets import DATASETS, fetch_dataset, load_dataset
from onebit.data.decoding import StreamedImages, prefetched, read_batches
from onebit.data.mask_folder import mask_classes, read_mask, with_classes
from onebit.data.mask_scores import VOID, Masks, by_pixel, class_scores, confusion_matrix, known_labels, pixel_scores
from onebit.data.preparation import permute_pixels, whiten
from onebit.data.resizing import Images
from onebit.data.splits import (
    Dataset,
    DatasetEntry,
    LoadedFiles,
    Progress,
    Split,
    refuse_held_out,
)
from onebit.data.tiles import Tiling, fitted
from onebit.data.toy import make_toy
from onebit.data.training_images import TrainingImages, TrainingSamples

__all__ = [
    "DATASETS",
    "VOID",
    "Augmentation",
    "Dataset",
    "DatasetEntry",
    "Images",
    "LoadedFiles",
    "Masks",
    "Progress",
    "Split",
    "StreamedImages",
    "Tiling",
    "TrainingImages",
    "TrainingSamples",
    "by_pixel",
    "class_scores",
    "confusion_matrix",
    "fetch_dataset",
    "fitted",
    "known_labels",
    "load_dataset",
    "make_toy",
    "mask_classes",
    "permute_pixels",
    "pixel_scores",
    "prefetched",
    "read_batches",
    "read_mask",
    "refuse_held_out",
    "whiten",
    "with_classes",
]
