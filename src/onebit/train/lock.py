"""One training at a time in a run folder: a lock of the operating system, which it releases when its holder dies."""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from onebit.common.files import open_locked, remove_leftovers
from onebit.errors import OnebitError, UsageError

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = ".onebit.lock"
"""Of a run folder while a training writes there; one that a killed training left locks nothing."""
_FAR = 1 << 30  # the byte that is locked on Windows, where a locked one cannot be read: it is not one of the text
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())


@contextmanager
def lock_folder(folder: str | Path | None, ranks: Ranks | None = None) -> Iterator[None]:
    """Within the context no other training may write into `folder`, which is made if it is not there.

    What killed trainings left half written there is removed. A context inside another one of the same folder changes
    nothing, nor does one without a folder.

    Args:
        ranks: all of them call this, and the one that writes holds the lock; None for a single process.

    Raises:
        UsageError: another training holds it; the message says which. OnebitError: the folder cannot be written to.
    """
    with ExitStack() as stack:
        if folder is not None:
            lock = _locked(Path(folder))
            if ranks is None:
                stack.enter_context(lock)
            else:
                ranks.first(lambda: stack.enter_context(lock))
        yield


def locks_folder(train: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`train` within `lock_folder` of its keyword arguments `folder` and `ranks`."""

    @functools.wraps(train)
    def locked(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        given: dict[str, Any] = dict(options)
        with lock_folder(given.get("folder"), given.get("ranks")):
            return train(*args, **options)

    return locked


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
            _held.reset(token)
            with suppress(OSError):  # while it is held: nobody else can have locked this very file
                (folder / LOCK_FILE).unlink()
            os.close(descriptor)
    finally:
        for path in made:
            with suppress(OSError):  # what is still empty
                path.rmdir()


def _take(folder: Path) -> int:
    """The descriptor of the lock file, locked by this process.

    Raises:
        UsageError: another training holds it. OSError: the file cannot be made.
    """
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
    """Lock an open file for this process, without waiting.

    Raises:
        BlockingIOError: it is locked.
    """
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
        # some network file systems know no locks: to train without one is better than not to train
        warnings.warn("this file system has no locks: see to it that one training writes there at a time", stacklevel=2)


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still is the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
