"""What a packed net is fed: batches of its dtype and shape, and one clear line for anything else."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.packed import InputSpec

DTYPES = {name: np.dtype(name) for name in ("uint8", "float32")}


def check_images(spec: InputSpec, images: Any) -> int:
    """The number of images, or other samples; UsageError for a wrong shape or dtype."""
    images = without_torch(images)
    shape = images.shape
    if shape[1:] == spec.shape or (is_gray(spec) and shape[1:] == spec.shape[1:]):
        # objects that load samples when they are indexed may have no dtype
        dtype = images.dtype if type(images) is np.ndarray else np.asarray(images[:0]).dtype
        if dtype == DTYPES[spec.dtype]:
            return int(shape[0])
    raise refusal(spec, str(getattr(images, "dtype", "")), tuple(shape))


def check_numbers(spec: InputSpec, batch: np.ndarray) -> None:
    """Raise UsageError for numbers that are NaN or infinite."""
    if spec.dtype == "float32" and not all_finite(batch):
        raise UsageError("some numbers of the inputs are NaN or infinite")


def all_finite(array: np.ndarray) -> bool:
    """Whether all float32 numbers are finite."""
    # the sum of squares takes less than half the time of isfinite, and is finite for all but huge numbers
    if array.flags.c_contiguous and np.vdot(array, array) < math.inf:
        return True
    return bool(np.isfinite(array).all())


def is_gray(spec: InputSpec) -> bool:
    """Whether a net takes images of one channel, which batches may leave out."""
    return len(spec.shape) == 3 and spec.shape[0] == 1


def refusal(spec: InputSpec, dtype: str, shape: tuple[int, ...]) -> UsageError:
    """The error for a batch of a wrong dtype or shape."""
    sizes = ", ".join(map(str, spec.shape))
    also = f" or (N, {sizes[3:]})" if is_gray(spec) else ""
    return UsageError(f"got inputs {dtype} {shape}, expected {spec.dtype} (N, {sizes}){also}")


def without_torch(batch: Any) -> Any:
    """A tensor as an array."""
    torch = sys.modules.get("torch")
    return batch.detach().numpy() if torch is not None and isinstance(batch, torch.Tensor) else batch
