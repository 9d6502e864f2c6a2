"""The threads of a process: they share images, or the work of each kernel call."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from onebit.native.abi import BarrierStruct

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Part = Callable[[int, int, int | None], int]
"""(part, parts, address of the barrier) -> 1 if the net took the sign of a NaN, else 0."""

MAX_THREADS = 1 << 16
"""Limit of threads; a process starts as many as calls keep busy at the same time."""
_BUSY = Lock()
_Share = TypeVar("_Share")
_Result = TypeVar("_Result")


def thread_count(threads: int | None = None) -> int:
    """`threads`, or ONEBIT_THREADS, or the number of available cores."""
    if given := threads or int(os.environ.get("ONEBIT_THREADS") or 0):
        return max(1, given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_shares(run: Callable[[_Share], _Result], shares: Sequence[_Share]) -> Iterator[_Result]:
    """The result of `run` for each share, with one thread per share.

    The calling thread runs the first share and all shares that are not started yet, so that it never waits for a thread
    that a busy machine does not start.
    """
    others = [_pool().submit(run, share) for share in shares[1:]]
    yield run(shares[0])
    for other, share in zip(others, shares[1:], strict=True):
        yield run(share) if other.cancel() else other.result()


def run_stages(
    run: Callable[..., int], struct: Any, stages: Sequence[int], *, parts: int, unit: int = 8, keep: object = None
) -> None:
    """Run the stages of a kernel one after the other, each in `parts` threads.

    Args:
        run: (address of `struct`, stage, part, parts); the result of stage 0 is the size of the scratch memory.
        unit: bytes of a number of that size.
        keep: owns the memory that `struct` points to. Threads may outlive an interrupted call.
    """
    address = ctypes.byref(struct)
    scratch = np.empty(unit * run(address, 0, 0, parts) + 63, np.uint8)
    struct.scratch = (scratch.ctypes.data + 63) // 64 * 64
    struct.owners = keep, scratch
    for stage in stages:

        def run_part(part: int, stage: int = stage) -> int:
            return run(address, stage, part, parts)

        for _ in run_shares(run_part, range(parts)):
            pass


def run_parts(run: Part, parts: int) -> bool:
    """Run all parts at once, the first in this thread; returns whether some part took the sign of a NaN.

    Parts wait for each other, so each needs a thread. While another call has the threads, this thread runs everything.
    """
    if not _BUSY.acquire(blocking=False):
        return bool(run(0, 1, None))
    barrier = BarrierStruct()

    def run_part(part: int) -> int:  # keeps the barrier alive: parts may outlive an interrupted call
        return run(part, parts, ctypes.addressof(barrier))

    try:
        others = [_pool().submit(run_part, part) for part in range(1, parts)]
        return any([run_part(0), *(other.result() for other in others)])
    except BaseException:
        barrier.cancelled = 1  # no part waits for one that never arrives
        raise
    finally:
        _BUSY.release()


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads besides the calling one; a new one starts if none is idle."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="onebit")


def _after_fork() -> None:
    """A child process has no other threads, so none would release the lock."""
    global _BUSY
    _BUSY = Lock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
