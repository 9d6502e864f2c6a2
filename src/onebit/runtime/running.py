"""Run a packed net: from images to logits, batch by batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, MutableMapping
from functools import cache
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from onebit.errors import FormatError, UsageError
from onebit.native import NativePlan, NotPlanned, instruction_set, instruction_sets, make_plan, run_shares
from onebit.packed import InputSpec, PackedNet, check_net, infer
from onebit.packed.net import INPUT
from onebit.runtime.executors import EXECUTORS, per_channel

_BATCH_VALUES = 1 << 22  # of the largest value of a net in one batch
_NATIVE_BATCH = 4096
_THREAD_WORK = 1 << 19  # least work per thread: a third of a millisecond or more, ten times as long as waking a thread
_PLANS: MutableMapping[PackedNet, dict[str, NativePlan | NotPlanned]] = WeakKeyDictionary()


def run(
    net: PackedNet,
    images: np.ndarray,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    executor: str | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Logits of images; their `argmax(axis=1)` is the label. All executors give the same bits.

    Args:
        net: a packed net, see `load`.
        images: (N, C, H, W) uint8 in the shape of the net's input; also (N, H, W) if C is 1.
        batch_size: images per batch, which changes memory use but no result; chosen automatically if None.
        threads: most threads of the native executor; ONEBIT_THREADS or one per core if None. They share the images, or
            the work on a single image. Fewer are used if each would have less than a third of a millisecond of work.
        executor: "native", the compiled library, or "reference", numpy; None chooses "native" if it is installed.
            Environment variables: ONEBIT_NATIVE=0 chooses "reference", ONEBIT_ISA=NAME an instruction set.
        on_images: called with (images done, all images).

    Returns:
        (N, classes) float32.

    Raises:
        WrongTypeError: `net` is not a packed net.
        UsageError: wrong shape or dtype of images, an unknown executor, or no library for "native".
        FormatError: some logit is not finite, because of the net's real parameters.
        NotBinaryError: a sign operation gets NaN, for the same reason.

    Example:
        >>> labels = run(load("mnist.1bit"), images).argmax(axis=1)
    """
    check_net(net)
    count = check_images(net.input, images)
    check_batch_size(batch_size)
    plan = native_plan(net, executor)
    logits = np.empty((count, *(infer(net)[net.only_output].shape if plan is None else plan.shape)), np.float32)
    parts: Iterator[np.ndarray]
    if plan is None:
        parts = (
            values[net.only_output] for _, values in batches(net, images, (net.only_output,), batch_size=batch_size)
        )
    else:
        parts = _native_parts(net, plan, images, batch_size or _NATIVE_BATCH, thread_count(threads))
    done = 0
    for part in parts:
        logits[done : done + len(part)] = part
        done += len(part)
        if on_images is not None:
            on_images(done, len(logits))
    check_logits(net, logits)
    return logits


def native_plan(net: PackedNet, executor: str | None = None) -> NativePlan | None:
    """The plan with which the library runs a net, None if the reference executor runs it. Errors: see `run`."""
    if executor not in (None, "native", "reference"):
        raise UsageError(f"unknown executor {executor!r}; known: native, reference")
    isa = None if executor == "reference" else instruction_set()
    if isa is None:
        if executor == "native":
            raise UsageError("the native library is not installed, or ONEBIT_NATIVE=0 is set; use executor 'reference'")
        if executor is None and not instruction_sets():
            _notice()
        return None
    plans = _PLANS.setdefault(net, {})
    if isa.name not in plans:
        try:
            plans[isa.name] = make_plan(net, isa)
        except NotPlanned as error:
            plans[isa.name] = error
    plan = plans[isa.name]
    if isinstance(plan, NativePlan):
        return plan
    if executor == "native":
        raise UsageError(f"the native library does not run this net: {plan}; use executor 'reference'")
    return None


def thread_count(threads: int | None = None) -> int:
    """`threads`, or ONEBIT_THREADS, or the number of available cores; UsageError unless a positive integer."""
    given = os.environ.get("ONEBIT_THREADS") if threads is None else threads
    if not given and threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        count = int(given or 0)
    except ValueError:
        count = 0
    if count < 1:
        raise UsageError(f"threads or ONEBIT_THREADS is {given!r}, expected a positive integer")
    return count


def threads_for(plan: NativePlan, count: int, threads: int) -> int:
    """How many threads to use for `count` images; more threads than images share kernel calls."""
    return max(1, min(threads, plan.work * count // _THREAD_WORK))


@cache
def _notice() -> None:
    warnings.warn(
        "the native library is not installed: packed nets run slowly, in numpy; reinstall onebit with a C compiler "
        "available",
        RuntimeWarning,
        stacklevel=4,
    )


def _native_parts(
    net: PackedNet, plan: NativePlan, images: np.ndarray, batch_size: int, threads: int
) -> Iterator[np.ndarray]:
    """Logits batch by batch. Threads share the images of a batch; more threads than images share kernel calls."""

    def run_part(part: np.ndarray, parts: int = 1) -> np.ndarray:
        logits, nan = plan.run(part, parts=parts)
        if nan:  # the reference executor raises the error, with details
            for _ in batches(net, part, (net.only_output,)):
                pass
        return logits

    for start in range(0, images.shape[0], batch_size):
        batch = np.asarray(images[start : start + batch_size])
        batch = np.ascontiguousarray(batch.reshape(len(batch), *net.input.shape))
        workers = threads_for(plan, len(batch), threads)
        if len(batch) < workers:
            yield run_part(batch, workers)
        else:
            yield from run_shares(run_part, np.array_split(batch, workers))


def check_logits(net: PackedNet, logits: np.ndarray) -> None:
    """Raise FormatError if some logits of a net are NaN or infinite."""
    if not np.isfinite(logits).all():
        raise FormatError(
            f"the net {net.name!r} gives logits that are not finite: its real parameters overflow float32"
        )


def batches(
    net: PackedNet, images: np.ndarray, names: Collection[str], *, batch_size: int | None = None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Values inside a net, batch by batch: the images (n, C, H, W), and a dict of values (n, …).

    Args:
        net, images, batch_size: as for `run`.
        names: names of the values.

    Raises:
        UsageError: as `run`, or for an unknown name.
        NotBinaryError: as `run`.
    """
    count = check_images(net.input, images)
    check_batch_size(batch_size)
    known = infer(net)
    if unknown := set(names) - set(known):
        raise UsageError(f"the net {net.name!r} has no value {min(unknown)!r}")
    most = max(1, _BATCH_VALUES // max(prod(value.shape) for value in known.values()))
    size = most if batch_size is None else min(batch_size, most)
    executors = [EXECUTORS[type(node)](node, *(known[name] for name in node.inputs)) for node in net.nodes]
    last_use = {name: index for index, node in enumerate(net.nodes) for name in node.inputs}
    for start in range(0, count, size):
        batch = np.asarray(images[start : start + size])
        batch = batch.reshape(len(batch), *net.input.shape)
        values = {INPUT: _code(net.input, batch)}
        for index, (node, execute) in enumerate(zip(net.nodes, executors, strict=True)):
            with np.errstate(over="ignore", invalid="ignore"):  # overflow is found once, at the end
                values[node.output] = execute(*(values[name] for name in node.inputs))
            for name in node.inputs:
                if last_use[name] == index and name not in names:
                    values.pop(name, None)
        yield batch, {name: values[name] for name in names}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities exp(l) / sum(exp(l)) over the last axis: (…, classes) -> float32 of the same shape."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


_IMAGE_WAYS = {"list": "; numpy.stack makes one array of a list", "Split": "; pass its images: split.images"}


def check_batch_size(batch_size: object) -> None:
    """Raise UsageError unless `batch_size` is a positive integer or None."""
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise UsageError(f"got batch_size {batch_size!r}, expected a positive integer")


def check_images(spec: InputSpec, images: Any) -> int:
    """The number of images; UsageError for a wrong shape or dtype."""
    # numpy arrays, tensors (without importing torch), and objects that load images when indexed
    if hasattr(images, "shape") and hasattr(images, "__getitem__"):
        shape = tuple(images.shape)
        dtype = np.asarray(images[:0]).dtype if shape else np.asarray(images).dtype
        gray = len(spec.shape) == 3 and spec.shape[0] == 1
        if dtype == spec.dtype and (shape[1:] == spec.shape or (gray and shape[1:] == spec.shape[1:])):
            return shape[0]
        got = f"{dtype} {shape}"
    else:
        got = type(images).__name__
    sizes = ", ".join(map(str, spec.shape))
    also = f" or (N, {sizes[3:]})" if len(spec.shape) == 3 and spec.shape[0] == 1 else ""
    way = _IMAGE_WAYS.get(type(images).__name__, "")
    raise UsageError(f"got images {got}, expected {spec.dtype} (N, {sizes}){also}{way}")


def _code(spec: InputSpec, images: np.ndarray) -> np.ndarray:
    """The value "input" of a batch: int32 or float32, (N, C, H, W)."""
    if spec.coding == "values":
        return images.astype(np.int32 if spec.value.exact else np.float32)
    if spec.mean is None or spec.std is None:
        return images.astype(np.int32) * 2 - 255
    return (images.astype(np.float32) - per_channel(spec.mean, 4)) / per_channel(spec.std, 4)
