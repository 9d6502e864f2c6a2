"""The options of data augmentation, for recipes and training, without torch and NumPy."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from onebit.common.fields import Checked, Positive, PositiveShare, checked, within
from onebit.errors import UsageError

Side = Annotated[int, within("[1, 4096]")]
"""Pixels."""


@checked(frozen=True)
class Augmentation(Checked):
    """Random changes to training images, whole batches at a time.

    Args:
        crop_padding: pixels of padding on each side, before a random crop back to the size
        flip: mirror left-right with probability one half
        padding_mode: zero or reflect
        cutout: side of a black square at a random position
        min_area: crop a random part of at least this share of the area and resize it (ImageNet)
        repeats: times that an epoch takes each image, with new random changes
        first_size: shorter side of the images in the first epoch; they grow to full size (null for full size at once)
        growing: share of the epochs in which they grow
        crop_size: side of a random crop of images with masks; null for the whole image
        flip_vertical: mirror images with masks upside down with probability one half
        rotate: rotate images with masks by a random multiple of 90 degrees
        elastic: standard deviation in pixels of an elastic deformation of images with masks; 0 for none
        elastic_smoothness: standard deviation in pixels of the Gaussian that smooths the deformation

    A padding that reflects mirrors the image at its edge pixels. The black square is clipped at the border. A random
    part has an aspect ratio of 3:4 to 4:3; streamed files are cropped at their full resolution. Images that grow are
    shrunk after all other changes.

    Raises:
        UsageError: a value out of its range, an unknown padding, or both kinds of crops.

    Source: cutout: DeVries and Taylor 2017 (arXiv:1708.04552); min_area: Szegedy et al. 2015 (arXiv:1409.4842);
        elastic: Simard, Steinkraus, Platt 2003 (ICDAR), section 2, with a standard deviation in place of their scale α.
    """

    PART: ClassVar[str] = "augmentation"

    crop_padding: Annotated[int, within("[0, 256]")] = 0
    flip: bool = False
    padding_mode: Literal["zero", "reflect"] = "zero"
    cutout: Annotated[int, within("[0, 4096]")] = 0
    min_area: PositiveShare | None = None
    repeats: Annotated[int, within("[1, 10000]")] = 1
    first_size: Side | None = None
    growing: PositiveShare = 0.7
    crop_size: Side | None = None
    flip_vertical: bool = False
    rotate: bool = False
    elastic: Annotated[float, within("[0, 1000]")] = 0.0
    elastic_smoothness: Positive = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_area is not None and self.crop_padding:
            raise UsageError("got augmentation.min_area and augmentation.crop_padding, expected one kind of crop")
