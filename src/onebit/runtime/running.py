"""Run a packed net on a batch of inputs."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from functools import cache, partial
from itertools import repeat
from math import prod
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from onebit.common.fields import read
from onebit.common.progress import PATIENCE, progress
from onebit.errors import FormatError, UsageError
from onebit.native import NativePlan, NotPlanned, instruction_set, instruction_sets, make_plan, run_shares, thread_count
from onebit.packed import InputSpec, Node, PackedNet, load
from onebit.packed.nodes.node import per_channel
from onebit.runtime.executors import executor_of
from onebit.runtime.input_batch import all_finite, as_batch, as_batches, as_given, fitting
from onebit.runtime.reference_matmul import Executor, one_blas_thread

_BATCH_VALUES = 1 << 22  # of the largest value of a net in one batch
_NATIVE_BATCH = 4096
_THREAD_WORK = 1 << 19  # least work per thread: a third of a millisecond or more, ten times as long as waking a thread
Step = Callable[[int, Node, Executor, list[np.ndarray]], np.ndarray]
_PLANS: MutableMapping[PackedNet, dict[str, NativePlan | NotPlanned]] = WeakKeyDictionary()


def run(
    net: PackedNet | str | os.PathLike[str],
    batch: Any,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    executor: str | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Any:
    """The outputs of a packed net for a batch, such as logits: `argmax(axis=1)` is the label.

    All executors give the same bits.

    Args:
        net: a packed net, the path of its file, or the name of a net that comes with onebit. Paths and names are read
            in every call: for many calls, `load` the net once.
        batch: (N, …) in the shape and dtype (uint8 or float32) of the net's input, an array or a tensor on the CPU;
            gray images may be (N, H, W). A net packed with sizes="any" takes images of any size. For several
            inputs a tuple, or a dict by name.
        batch_size: samples per batch, which changes memory use but no result; chosen automatically if None.
        threads: most threads of the native executor; ONEBIT_THREADS or one per core if None. They share the samples, or
            the work on a single one. Fewer are used if each would have less than a third of a millisecond of work.
        executor: "native", the compiled library, or "reference", numpy; None chooses "native" if it is installed.
            Environment variables: ONEBIT_NATIVE=0 chooses "reference", ONEBIT_ISA=NAME an instruction set.
        on_images: called with (samples done, all samples).

    Returns:
        float32 (N, …), such as (N, classes); a tuple or dict of arrays for a net with several outputs.

    Raises:
        UsageError: a wrong shape or dtype of the batch, inputs that are not finite, an unknown executor, or no library
            for "native".
        FormatError: real parameters of the net make an output that is not finite; or as `load`.
        NotBinaryError: they make NaN before a sign operation.

    Example:
        >>> labels = run("net.1bit", images).argmax(axis=1)
    """
    net = fitting(opened(net), batch)
    return run_planned(
        net, native_plan(net, executor), batch, batch_size=batch_size, threads=threads, on_images=on_images
    )


def run_planned(
    net: PackedNet,
    plan: NativePlan | None,
    batch: Any,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Any:
    """`run` with a plan of the native library; None for the reference executor."""
    inputs = as_batches(net, batch)
    parts: Iterator[list[np.ndarray]]
    if plan is None:
        every = batches(net, as_given(inputs), net.outputs, batch_size=batch_size)
        parts = ([values[name].astype(np.float32) for name in net.outputs] for _, values in every)
    else:
        parts = _native_parts(net, plan, inputs, max(1, batch_size or _NATIVE_BATCH), threads)
    found, done = [], 0
    with progress("running", "samples", on_images, after=PATIENCE) as bar:
        for part in parts:
            found.append(part)
            done += len(part[0])
            bar.update(done, inputs[0].shape[0])
    if not found:
        found.append([np.empty((0, *net.values[name].shape), np.float32) for name in net.outputs])
    arrays = found[0] if len(found) == 1 else [np.concatenate(one) for one in zip(*found, strict=True)]
    for array in arrays:
        check_logits(net, array)
    return arrays[0] if isinstance(net.output, str) else net.structured(dict(zip(net.outputs, arrays, strict=True)))


def opened(net: PackedNet | str | os.PathLike[str]) -> PackedNet:
    """The packed net of a path or name; a packed net unchanged."""
    return net if isinstance(net, PackedNet) else load(net)


def native_plan(net: PackedNet, executor: str | None = None) -> NativePlan | None:
    """The native plan of a net, or None for the reference executor. Errors: see `run`."""
    if executor is not None:
        read(executor, Literal["native", "reference"], name="executor")
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
            plans[isa.name] = NotPlanned(str(error))  # without the traceback, which would keep the net alive
    plan = plans[isa.name]
    if isinstance(plan, NativePlan):
        return plan
    if executor == "native":
        raise UsageError(f"the native library does not run this net: {plan}; use executor 'reference'")
    return None


def threads_for(plan: NativePlan, count: int, threads: int | None) -> int:
    """How many threads to use for `count` samples; more threads than samples share kernel calls."""
    most = plan.work * count // _THREAD_WORK
    return 1 if most <= 1 and threads is None else max(1, min(thread_count(threads), most))


@cache
def _notice() -> None:
    warnings.warn(
        "the native library is not installed: packed nets run slowly, in numpy; reinstall onebit with a C compiler "
        "available",
        RuntimeWarning,
        stacklevel=4,
    )


def _native_parts(
    net: PackedNet, plan: NativePlan, inputs: list[Any], batch_size: int, threads: int | None
) -> Iterator[list[np.ndarray]]:
    """Each output, batch by batch. Threads share its samples; more threads than samples share kernel calls."""
    for start in range(0, inputs[0].shape[0], batch_size):
        batch = _parts(net, inputs, start, batch_size)
        count = len(batch[0])
        workers = threads_for(plan, count, threads)
        if workers == 1 or count < workers:
            yield _native_part(net, plan, workers, batch)
        else:
            shares = zip(*(np.array_split(part, workers) for part in batch), strict=True)
            yield from run_shares(partial(_native_part, net, plan, 1), list(shares))


def _native_part(net: PackedNet, plan: NativePlan, parts: int, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each output of a call of the library, in which `parts` threads share the kernel calls."""
    answers, nan = plan.run(*batch, parts=parts)
    if nan:  # the reference executor raises the error, with details
        for _ in batches(net, as_given(batch), net.outputs):
            pass
    return plan.separate(answers, len(batch[0]))


def _parts(net: PackedNet, inputs: list[Any], start: int, size: int) -> list[np.ndarray]:
    return list(map(_part, net.inputs.values(), inputs, repeat(start), repeat(size)))


def _part(spec: InputSpec, inputs: Any, start: int, size: int) -> np.ndarray:
    """The samples from `start` on, with all axes of the net's input. Errors: see `as_batch`."""
    part = np.asarray(inputs[start : start + size])
    if not isinstance(inputs, np.ndarray):  # loaded on demand: not checked before
        as_batch(spec, part)
        if len(part) != (count := min(size, inputs.shape[0] - start)):
            raise UsageError(f"got {len(part):,} samples, expected {count:,}")
    if spec.dtype == "float32" and not all_finite(part):
        raise UsageError("inputs are NaN or infinite")
    return np.ascontiguousarray(part).reshape(len(part), *spec.shape)


def check_logits(net: PackedNet, logits: np.ndarray) -> None:
    """Raise FormatError if outputs of a net are NaN or infinite."""
    if not all_finite(logits):
        what = "logits" if isinstance(net.output, str) else "outputs"
        raise FormatError(f"{what} of the net {net.name!r} are not finite: its real parameters overflow float32")


def batches(
    net: PackedNet, images: Any, names: Collection[str], *, batch_size: int | None = None, step: Step | None = None
) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """Batches of (inputs (n, …), dict of values inside a net (n, …)), by the reference executor.

    Args:
        net, images, batch_size: net, batch and batch_size of `run`.
        names: names of the values.
        step: replaces the executor of each node; called with the index of the first sample, the node, its executor and
            its inputs.

    Raises:
        UsageError, NotBinaryError: as `run`.
    """
    net = fitting(net, images)
    inputs, known = as_batches(net, images), net.values
    size = max(1, min(batch_size or sys.maxsize, _BATCH_VALUES // max(prod(value.shape) for value in known.values())))
    executors = [executor_of(node, *(known[name] for name in node.inputs)) for node in net.nodes]
    last_use = {name: index for index, node in enumerate(net.nodes) for name in node.inputs}
    for start in range(0, inputs[0].shape[0], size):
        batch = _parts(net, inputs, start, size)
        values = {name: _code(spec, part) for (name, spec), part in zip(net.inputs.items(), batch, strict=True)}
        with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # `check_logits` finds an overflow
            for index, (node, execute) in enumerate(zip(net.nodes, executors, strict=True)):
                given = [values[name] for name in node.inputs]
                values[node.output] = execute(*given) if step is None else step(start, node, execute, given)
                for name in node.inputs:
                    if last_use[name] == index and name not in names:
                        values.pop(name, None)
        yield as_given(batch), {name: values[name] for name in names}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities exp(l) / sum(exp(l)) over the last axis: (…, classes) -> float32 of the same shape."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def _code(spec: InputSpec, batch: np.ndarray) -> np.ndarray:
    """The value of a batch of an input: int32 or float32, (N, …)."""
    if spec.coding == "values":
        return batch.astype(np.int32 if spec.value.exact else np.float32)
    if spec.mean is None or spec.std is None:
        return batch.astype(np.int32) * 2 - 255
    return (batch.astype(np.float32) - per_channel(spec.mean, batch.ndim)) / per_channel(spec.std, batch.ndim)
