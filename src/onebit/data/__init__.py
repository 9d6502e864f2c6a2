"""Data sets as uint8 arrays: finds or downloads their files, checks, splits and augments them. Never imports torch."""

from onebit.common.augmentation import Augmentation as Augmentation
from onebit.data.datasets import DATASETS as DATASETS, fetch_dataset as fetch_dataset, load_dataset as load_dataset
from onebit.data.decoding import StreamedImages as StreamedImages, prefetched as prefetched
from onebit.data.mask_folder import mask_classes as mask_classes, read_mask as read_mask, with_classes as with_classes
from onebit.data.mask_scores import (
    VOID as VOID,
    Masks as Masks,
    by_pixel as by_pixel,
    class_scores as class_scores,
    confusion_matrix as confusion_matrix,
    known_labels as known_labels,
    pixel_scores as pixel_scores,
)
from onebit.data.preparation import permute_pixels as permute_pixels, whiten as whiten
from onebit.data.resizing import Images as Images
from onebit.data.splits import (
    Dataset as Dataset,
    DatasetEntry as DatasetEntry,
    LoadedFiles as LoadedFiles,
    Progress as Progress,
    Split as Split,
    refuse_held_out as refuse_held_out,
)
from onebit.data.tiles import Tiling as Tiling, fitted as fitted
from onebit.data.toy import make_toy as make_toy
from onebit.data.training_images import TrainingImages as TrainingImages, TrainingSamples as TrainingSamples
