"""Files that are never half written: a temporary file in the same folder, fsync, then one rename.

Only regular files are read: opening a pipe would block.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from onebit.errors import OnebitError, UsageError

PREFIX = ".onebit-"
"""Start of the names of temporary files, before random digits."""
AnyPath = str | os.PathLike[str]
OLD = 3600
"""Seconds without a change after which a temporary file is taken for that of a killed process."""
OWN = b"written by onebit"
"""In the first 1000 bytes of files that onebit writes under names that the user did not give."""
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: AnyPath) -> BinaryIO:
    """Open a regular file for reading; never blocks, as `open` does on a pipe."""
    return os.fdopen(_regular(path, os.O_RDONLY), "rb")


def is_own(path: AnyPath) -> bool:
    """Whether onebit wrote the file: others are replaced only if the user names them."""
    try:
        with open_regular(path) as stream:
            return OWN in stream.read(1000)
    except OSError:
        return False


def refuse_foreign(folder: Path, names: Iterable[Path]) -> None:
    """Raise UsageError if one of these files exists and onebit did not write it."""
    for name in names:
        if os.path.lexists(folder / name) and not is_own(folder / name):
            raise UsageError(f"{folder / name} is there already, and onebit has not written it")


def read_regular(path: AnyPath, *, largest: int) -> bytes:
    """The bytes of a regular file."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"got {size:,} bytes, expected at most {largest:,}", os.fspath(path))
        return stream.read(largest)


def read_json(path: AnyPath, *, largest: int) -> Any:
    """The value in a JSON file."""
    try:
        return json.loads(read_regular(path, largest=largest))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def append_text(path: AnyPath) -> TextIO:
    """Open a regular file to append lines to it, created if missing; a link is refused, not followed."""
    descriptor = _regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_FOLLOW)
    # names of files may hold bytes that are not UTF-8
    return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def _regular(path: AnyPath, flags: int) -> int:
    descriptor = os.open(path, flags | _FLAGS, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))


@contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """A temporary path in the same folder, which replaces `path` when the block ends without an error.

    The temporary file exists (empty) and has the suffix of `path`, from which some libraries choose the format. After
    an error in the block or Ctrl-C it is removed, and `path` is unchanged. If `path` is a symbolic link, the file that
    it points to is replaced.

    Example:
        >>> with atomic_path("curves.png") as temporary:
        ...     figure.savefig(temporary)
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device would be replaced
        raise OnebitError(f"cannot write {os.fspath(path)!r}: not a regular file")
    temporary = target.with_name(_temporary_name() + target.suffix)
    try:
        # not tempfile, whose files only the owner can read
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _fsync(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except OSError as error:
        raise OnebitError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is still there after an error
            temporary.unlink()
    with suppress(OSError):  # makes the rename durable; not every system can open a folder
        _fsync(target.parent, os.O_RDONLY)


@contextmanager
def atomic_files(folder: AnyPath) -> Iterator[Path]:
    """An empty temporary folder, whose files move into `folder` when the block ends without an error.

    `folder` is created if it is missing; its other files stay. After an error in the block or Ctrl-C nothing changes.

    Raises:
        OnebitError: for every OSError; it names the files that had moved.
    """
    target = Path(os.path.realpath(folder))
    staging = None
    moved: list[str] = []
    try:
        parent = target if target.exists() else target.parent
        remove_leftovers(parent)
        staging = parent / _temporary_name()
        staging.mkdir(mode=0o700)
        yield staging
        names = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
        for name in names:  # before the first file moves
            _fsync(staging / name, os.O_RDWR)
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, target / name)
            moved.append(str(name))
    except OSError as error:
        reason = f"{error.strerror or error}; written: {', '.join(moved) or 'nothing'}"
        raise OnebitError(f"cannot write into {os.fspath(folder)!r}: {reason}") from error
    finally:
        if staging is not None:
            import shutil  # here: running a net does not need it

            shutil.rmtree(staging, ignore_errors=True)


def json_text(value: Any, *, indent: int, default: Callable[[Any], Any] | None = None) -> str:
    """JSON in which infinities and NaN are null; `default` is that of `json.dumps`."""

    def finite(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: finite(item) for key, item in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(item) for item in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), indent=indent, allow_nan=False, default=default)


def sha256_of(path: Path) -> str:
    """The SHA-256 of the bytes of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_atomic(path: AnyPath, data: bytes) -> None:
    """Write `data` to `path`, all of it or nothing; for errors see `atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(data)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of killed processes from a folder: those unchanged for `OLD` seconds."""
    import shutil

    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if _TEMPORARY.fullmatch(path.name) and path.stat().st_mtime < time.time() - OLD:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


_TEMPORARY = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}(\..+)?")
"""Names of `_temporary_name`, with the suffix of the file; other names are the user's."""


def _temporary_name() -> str:
    return f"{PREFIX}{os.urandom(8).hex()}"


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
