"""One training at a time in a run folder: a lock that the operating system releases when its holder dies."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from onebit.common.files import open_locked, remove_leftovers
from onebit.common.signals import uninterrupted
from onebit.errors import OnebitError, UsageError

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = ".onebit.lock"
"""In a run folder while a training writes there; the file of a killed training locks nothing."""
_FAR = 1 << 30  # the byte that is locked on Windows, outside the text: a locked byte cannot be read there
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())


@contextmanager
def lock_folder(folder: str | Path | None, ranks: Ranks | None = None) -> Iterator[None]:
    """The context in which no other training may write into `folder`, which is created if needed.

    Half-written files of killed runs are removed. Without a folder, or within a lock of the same folder, nothing
    happens.

    Args:
        ranks: all of them call this, and the one that writes holds the lock; None for a single process.
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
    place = os.path.realpath(folder)
    if place in _held.get():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _take(folder)
        except OSError as error:
            raise OnebitError(f"cannot train into {folder}: {error.strerror or error}; choose another --out") from None
        token = _held.set(_held.get() | {place})
        try:
            remove_leftovers(folder)
            yield
        finally:
            with uninterrupted():
                _held.reset(token)
                with suppress(OSError):  # while it is locked: no other training can have locked this file
                    (folder / LOCK_FILE).unlink()
                os.close(descriptor)
    finally:
        with uninterrupted():
            for path in made:
                with suppress(OSError):  # not empty
                    path.rmdir()


def _take(folder: Path) -> int:
    """The descriptor of the lock file, locked by this process; UsageError if another training holds it."""
    path = folder / LOCK_FILE
    while True:
        descriptor = open_locked(path)
        try:
            _lock(descriptor)
            if _is_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise UsageError(
                f"{folder} is being trained into by {holder}: wait until it ends, or choose another --out"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between the two calls


def _lock(descriptor: int) -> None:
    """Lock an open file for this process, without waiting; BlockingIOError if it is locked."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            raise BlockingIOError from None
        # some network file systems have no locks: training without one beats not training
        warnings.warn("this file system has no locks: make sure that one training at a time writes there", stacklevel=2)


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether `path` is still the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
