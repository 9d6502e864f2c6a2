"""Input batches of a packed net: their dtype, shape and values."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from onebit.errors import UsageError
from onebit.packed import InputSpec, PackedNet

MAX_SIZES = 8
"""Sizes of images for which a net is kept, with its plans."""
_SIZED: MutableMapping[PackedNet, dict[tuple[tuple[int, ...], ...], PackedNet]] = WeakKeyDictionary()
_LOCK = Lock()
DTYPES = {name: np.dtype(name) for name in ("uint8", "float32")}


def as_batch(spec: InputSpec, images: Any) -> Any:
    """Samples as an array for the net; objects that load samples when they are indexed stay as they are.

    Raises:
        UsageError: a wrong shape or dtype.
    """
    images = _as_array(images)
    shape = images.shape
    if shape[1:] == spec.shape or (is_gray(spec) and shape[1:] == spec.shape[1:]):
        # objects that load samples when they are indexed may have no dtype
        dtype = images.dtype if type(images) is np.ndarray else np.asarray(images[:0]).dtype
        if dtype == DTYPES[spec.dtype]:
            return images
    got, sizes = getattr(images, "dtype", ""), ", ".join(map(str, spec.shape))
    raise UsageError(f"got inputs {got} {tuple(shape)}, expected {spec.dtype} (N, {sizes})")


def as_batches(net: PackedNet, inputs: Any) -> list[Any]:
    """The samples of each input of a net, as `as_batch` returns them.

    Args:
        inputs: of several inputs a tuple, in their order, or a dict by name.

    Raises:
        UsageError: also other names or numbers of inputs or of samples.
    """
    if len(specs := net.inputs) == 1 and not isinstance(inputs, dict):
        (spec,) = specs.values()
        return [as_batch(spec, inputs)]
    if not isinstance(inputs, Mapping):
        fits = isinstance(inputs, (tuple, list)) and len(inputs) == len(specs)
        inputs = dict(zip(specs, inputs, strict=True)) if fits else {}
    if inputs.keys() != specs.keys():
        raise UsageError(f"expected the inputs {', '.join(specs)}, as a tuple or by name")
    parts = [as_batch(spec, inputs[name]) for name, spec in specs.items()]
    if len(counts := {part.shape[0] for part in parts}) > 1:
        raise UsageError(f"inputs have {' and '.join(map(str, counts))} samples, expected equal numbers")
    return parts


def fitting(net: PackedNet, inputs: Any) -> PackedNet:
    """The net for images of the size of a batch; itself if it has one size. The last `MAX_SIZES` are kept.

    Raises:
        UsageError: images of a size that the net does not take.
    """
    if not net.free:
        return net
    if not isinstance(inputs, Mapping):
        inputs = dict(zip(net.inputs, inputs if len(net.inputs) > 1 else [inputs], strict=False))
    shapes = [
        (spec.shape, tuple(np.shape(inputs[name])) if name in inputs else ())
        for name, spec in net.inputs.items()
        if spec.sizes == "any"
    ]
    sizes = tuple(found[-2:] for _, found in shapes)
    if any(len(found) not in (3, 4) for _, found in shapes):
        return net  # `as_batches` refuses them
    if all(size == own[1:] for size, (own, _) in zip(sizes, shapes, strict=True)):
        return net
    with _LOCK:
        known = _SIZED.setdefault(net, {})
        known[sizes] = made = known.pop(sizes, None) or net.at(*sizes)  # the latest is the last
        if len(known) > MAX_SIZES:
            del known[next(iter(known))]
    return made


def as_given(parts: Sequence[Any]) -> Any:
    """What `onebit.run` takes as the inputs with these samples: a tuple of several."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def all_finite(array: np.ndarray) -> bool:
    """Whether all numbers of a float32 array are finite."""
    # the sum of squares takes less than half the time of isfinite and overflows only for huge numbers
    if array.flags.c_contiguous and np.vdot(array, array) < math.inf:
        return True
    return bool(np.isfinite(array).all())


def is_gray(spec: InputSpec) -> bool:
    """Whether a net takes images of one channel; batches may omit that axis."""
    return len(spec.shape) == 3 and spec.shape[0] == 1


def _as_array(batch: Any) -> Any:
    """A tensor or a list as an array; other objects with a shape unchanged."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(batch, torch.Tensor):
        return batch.detach().numpy()
    return batch if hasattr(batch, "shape") else np.asarray(batch)
