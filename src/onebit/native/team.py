"""Threads that share images, or run the steps of a plan together, each a part of every one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import TypeVar

from onebit.native.library import Meeting

Part = Callable[[int, int, int | None], int]
"""(part, parts, where its threads meet) -> 1 if the sign of a NaN was taken."""

_BUSY = Lock()
_Share = TypeVar("_Share")
_Made = TypeVar("_Made")


def run_shares(run: Callable[[_Share], _Made], shares: Sequence[_Share]) -> Iterator[_Made]:
    """What `run` makes of each share, a thread for each. This one does the first, and those that none has begun.

    So nothing waits for a thread that a busy machine does not let begin.
    """
    others = [_pool(len(shares)).submit(run, share) for share in shares[1:]]
    yield run(shares[0])
    for other, share in zip(others, shares[1:], strict=True):
        yield run(share) if other.cancel() else other.result()


def run_together(run: Part, parts: int) -> bool:
    """Runs all parts at once, this thread the first; the whole by this thread, where another one has the team.

    Parts wait for each other, so each needs a thread that is free.

    Returns:
        Whether one of them took the sign of a NaN.
    """
    if not _BUSY.acquire(blocking=False):
        return bool(run(0, 1, None))
    meeting = Meeting()

    def run_part(part: int) -> int:  # holds the meeting: a part may still be there when this call was interrupted
        return run(part, parts, ctypes.addressof(meeting))

    try:
        others = [_team(parts).submit(run_part, part) for part in range(1, parts)]
        return any([run_part(0), *(other.result() for other in others)])
    except BaseException:
        meeting.over = 1  # no part waits for one that does not come
        raise
    finally:
        _BUSY.release()


@cache
def _team(parts: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(parts - 1, thread_name_prefix="onebit")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Of shares, which wait for no other one."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="onebit shares")


def _after_fork() -> None:
    """A child process has none of the threads, and nobody to let go of the lock."""
    global _BUSY
    _BUSY = Lock()
    _team.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
