"""Files that are never half written: a temporary file in the same folder, fsync, then one rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from onebit.errors import OnebitError

PREFIX = ".onebit-"
"""Of temporary files."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there replaces `path` when the block ends without an error.

    The temporary path exists (empty) and keeps the suffix, as some libraries choose the format by it. After an error in
    the block, Ctrl-C included, the temporary file is removed and `path` stays as it was. A symbolic link is written
    through.

    Raises:
        OnebitError: for every OSError of the block or of the rename (a full disk, no such folder, no permission), or
            when `path` is a folder or a device; the message names `path`.

    Example:
        >>> with atomic_path("curves.png") as temporary:
        ...     figure.savefig(temporary)
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OnebitError(f"cannot write {os.fspath(path)!r}: it is not a regular file; choose another path")
    temporary = target.with_name(f"{PREFIX}{secrets.token_hex(8)}{target.suffix}")
    try:
        # not tempfile: its files are readable by their owner alone, and would stay so after the rename
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _fsync(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        reason = error.strerror or str(error)
        raise OnebitError(
            f"cannot write {os.fspath(path)!r}: {reason}; nothing was changed; mend that or choose another path"
        ) from error
    except BaseException:
        _remove(temporary)
        raise
    with suppress(OSError):  # makes the rename durable too; not every system can open a folder
        _fsync(target.parent, os.O_RDONLY)


def write_atomic(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write `data` to `path`, all of it or not at all.

    Raises:
        OnebitError: as `atomic_path`.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(data)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder to which nobody writes now."""
    for path in folder.glob(f"{PREFIX}*"):
        _remove(path)


def remove_made(paths: Sequence[Path]) -> None:
    """Remove files, and folders that are empty then; what cannot be removed stays."""
    for path in paths:
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
