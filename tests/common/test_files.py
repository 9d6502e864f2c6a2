from __future__ import annotations

import json
import math
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onebit.common.files import (
    append_text,
    atomic_files,
    atomic_path,
    json_text,
    read_json,
    remove_leftovers,
    write_atomic,
)
from onebit.errors import OnebitError


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"one")
    assert path.read_bytes() == b"one"
    write_atomic(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a.bin"]
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    write_atomic(path, b"old")
    with files_limited_to(10_000), pytest.raises(OnebitError, match=r"net\.1bit"):
        write_atomic(path, b"x" * 50_000)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["net.1bit"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_block_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_temporary_path_is_in_the_same_folder_with_the_same_suffix(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        assert temporary.exists()
        temporary.write_bytes(b"picture")
        assert not path.exists()
    assert path.read_bytes() == b"picture"


def test_a_symbolic_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "file")
    write_atomic(link, b"data")
    assert link.is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"data"
    assert names(tmp_path / "real") == ["file"]


def test_a_log_takes_names_of_files_that_are_not_utf8(tmp_path: Path) -> None:
    with append_text(tmp_path / "log.txt") as log:
        log.write(os.fsdecode(b"r\xff"))
    assert (tmp_path / "log.txt").read_text() == "r\\udcff"


def test_folders_and_devices_are_never_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, os.devnull):
        with pytest.raises(OnebitError):
            write_atomic(path, b"")
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_old_leftovers_are_removed(tmp_path: Path) -> None:
    for name in ("0123456789abcdef", "0123456789abcdef.bin", "notes.txt", "0123456789abcde", "0123456789ABCDEF"):
        (tmp_path / f".onebit-{name}").touch()
    with atomic_path(tmp_path / "net.bin") as ours, atomic_files(tmp_path / "folder") as folder:
        (folder / "a").touch()
        remove_leftovers(tmp_path)
        assert len(names(tmp_path)) == 7, "new ones may be in use"
        for path in (*tmp_path.iterdir(), folder):
            os.utime(path, (0, 0))
        os.utime(ours)
        remove_leftovers(tmp_path)
        left = names(tmp_path)
        folder.mkdir()
    assert left == sorted([ours.name, ".onebit-notes.txt", ".onebit-0123456789abcde", ".onebit-0123456789ABCDEF"])


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff", b"[" * 100_000, b" " * 200_001])
def test_a_json_file_that_cannot_be_read_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b'{"test": [null, 0.5]}')
    assert read_json(path, largest=100) == {"test": [None, 0.5]}
    path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_json(path, largest=200_000)


# ------------------------------------------------------------------------------------------------------- several files
def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("there", [True, False])
def test_several_files_appear_together_and_others_stay(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "net"
    old = {"kept": b"kept", "a": b"old"} if there else {}
    if there:
        folder.mkdir()
    for name, data in old.items():
        (folder / name).write_bytes(data)
    with atomic_files(folder) as staging:
        (staging / "a").write_bytes(b"new")
        (staging / "src").mkdir()
        (staging / "src" / "b").write_bytes(b"deep")
        assert (content(folder) if folder.exists() else {}).items() >= old.items()
        assert staging.parent == (folder if there else tmp_path)  # the same file system
    assert content(folder) == {**({"kept": b"kept"} if there else {}), "a": b"new", "src/b": b"deep"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net"]
    (tmp_path / "plain").touch()
    assert (folder / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "dir").mkdir()
    assert there or folder.stat().st_mode == (tmp_path / "dir").stat().st_mode


@pytest.mark.parametrize(("error", "there"), [(ValueError, True), (KeyboardInterrupt, False), (OSError, True)])
def test_after_an_error_no_file_of_several_is_changed(tmp_path: Path, error: type[BaseException], there: bool) -> None:
    folder = tmp_path / "net"
    if there:
        folder.mkdir()
        (folder / "a").write_bytes(b"old")
    before = content(tmp_path)

    def write() -> None:
        with atomic_files(folder) as staging:
            (staging / "a").write_bytes(b"new")
            raise error("stopped")

    with pytest.raises(OnebitError if error is OSError else error):
        write()
    assert content(tmp_path) == before
    assert folder.exists() == there


def test_a_move_that_fails_names_what_was_written_before(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # where a file should be

    def write() -> None:
        with atomic_files(tmp_path) as staging:
            for name in ("a", "b"):
                (staging / name).write_bytes(b"new")

    with pytest.raises(OnebitError, match=r"written: a$"):
        write()
    assert names(tmp_path) == ["a", "b"]


def test_json_has_null_for_numbers_that_are_not_finite() -> None:
    text = json_text({"loss": math.inf, "rows": [(math.nan, 1.5)]}, indent=1)
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "rows": [[None, 1.5]]}
    with pytest.raises(TypeError):
        json_text({"path": object()}, indent=1)


def test_files_in_place_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "missing/deep", "file/x"):
        with pytest.raises(OnebitError):
            atomic_files(tmp_path / folder).__enter__()
    assert names(tmp_path) == ["file"]
