"""One run at a time in a folder: a lock that the operating system releases when its process dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from onebit.common.files import remove_leftovers
from onebit.errors import UsageError

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

LOCK_FILE = ".onebit.lock"
"""Exists while a run writes into the folder; the file of a killed process locks nothing."""


@contextmanager
def lock_folder(folder: str | Path | None, ranks: Ranks | None = None) -> Iterator[None]:
    """A context in which no other run may write into `folder`, which is created if needed.

    Half-written files of killed runs are removed. Without a folder, or inside a lock of the same folder, nothing
    happens.

    Args:
        ranks: all of them call this, and rank 0 holds the lock; None for a single process.
    """
    with ExitStack() as stack:
        if folder is not None:
            lock = _locked(Path(folder))
            if ranks is None:
                stack.enter_context(lock)
            else:
                ranks.first(lambda: stack.enter_context(lock))
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(os.path.realpath(folder / LOCK_FILE), timeout=0, is_singleton=True)
    if lock.is_locked:  # by this thread
        yield
        return
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(f"another process trains into {folder}: choose another --out") from None
        try:
            remove_leftovers(folder)
            yield
        finally:
            with suppress(OSError):  # before the release, so that it is not the lock of another run
                (folder / LOCK_FILE).unlink()
            lock.release()
    finally:
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()
