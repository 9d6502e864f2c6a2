"""What a packed net is fed: batches of its dtype and shape, and one clear line for anything else."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.packed import InputSpec

DTYPES = {name: np.dtype(name) for name in ("uint8", "float32")}
_BLOCK = 1 << 20  # numbers that are checked at once
_OTHER_WAYS = {"list": "numpy.stack makes one array of a list", "Split": "pass its images: split.images"}


def check_images(spec: InputSpec, images: Any) -> int:
    """The number of images, or other samples; UsageError for a wrong shape or dtype."""
    images = without_torch(images)
    # arrays, and objects that load samples when they are indexed
    if not (hasattr(images, "shape") and hasattr(images, "__getitem__")):
        raise _refused(spec, type(images).__name__, _OTHER_WAYS.get(type(images).__name__, ""))
    shape = tuple(images.shape)
    dtype = np.asarray(images[:0]).dtype if shape else np.asarray(images).dtype
    if dtype == spec.dtype and (shape[1:] == spec.shape or (is_gray(spec) and shape[1:] == spec.shape[1:])):
        return int(shape[0])
    raise refusal(spec, str(dtype), shape)


def check_numbers(spec: InputSpec, batch: np.ndarray) -> None:
    """Raise UsageError for numbers that are NaN or infinite; it counts them."""
    if spec.dtype != "float32" or all_finite(batch):
        return
    flat = batch.reshape(-1)
    wrong = sum(np.count_nonzero(~np.isfinite(flat[start : start + _BLOCK])) for start in range(0, flat.size, _BLOCK))
    raise UsageError(
        f"{wrong:,} of {batch.size:,} numbers of the inputs are NaN or infinite, expected finite ones; "
        "numpy.nan_to_num replaces them"
    )


def all_finite(array: np.ndarray) -> bool:
    """Whether all float32 numbers are finite."""
    # the sum of squares takes less than half the time of isfinite, and is finite for all but huge numbers
    if array.flags.c_contiguous and np.vdot(array, array) < math.inf:
        return True
    return bool(np.isfinite(array).all())


def describe_shape(spec: InputSpec) -> str:
    """What the net takes, such as `uint8 (N, 1, 28, 28) or (N, 28, 28)`."""
    sizes = ", ".join(map(str, spec.shape))
    return f"{spec.dtype} (N, {sizes})" + (f" or (N, {sizes[3:]})" if is_gray(spec) else "")


def is_gray(spec: InputSpec) -> bool:
    """Whether a net takes images of one channel, which batches may leave out."""
    return len(spec.shape) == 3 and spec.shape[0] == 1


def refusal(spec: InputSpec, dtype: str, shape: tuple[int, ...]) -> UsageError:
    """The error for a batch of a wrong dtype or shape."""
    ways = []
    if dtype != spec.dtype and dtype.startswith(("float", "int", "uint", "bool")):
        if spec.dtype == "float32":
            pixels = dtype == "uint8" and len(spec.shape) == 3
            ways.append("prepare pixels as in training" if pixels else "batch.astype('float32') converts it")
        elif dtype.startswith("float"):
            ways.append("the net takes raw values, 0 to 255, and does the preprocessing itself")
        elif dtype == "bool" and len(spec.shape) == 3:
            ways.append("255 * batch.astype('uint8') makes it black and white")
        else:
            ways.append("batch.astype('uint8') converts values from 0 to 255")
    if shape == spec.shape or (is_gray(spec) and shape == spec.shape[1:]):
        ways.append("batch[None] makes a batch of one sample")
    return _refused(spec, f"{dtype} {shape}", "; ".join(ways))


def _refused(spec: InputSpec, got: str, way: str) -> UsageError:
    noun = "images" if len(spec.shape) == 3 and spec.dtype == "uint8" else "inputs"
    return UsageError(f"got {noun} {got}, expected {describe_shape(spec)}{way and '; '}{way}")


def without_torch(batch: Any) -> Any:
    """A tensor as an array; UsageError for one that is not on the CPU, or of a dtype that numpy lacks."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(batch, torch.Tensor):
        return batch
    if not batch.is_cpu:
        raise UsageError(f"got a batch on {batch.device}, expected the CPU, where packed nets run: batch.cpu()")
    try:
        return batch.numpy(force=batch.requires_grad)
    except (TypeError, RuntimeError):  # bfloat16, sparse, quantized
        kind = f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
        raise UsageError(f"got inputs {kind}, which numpy cannot hold, expected uint8 or float32") from None
