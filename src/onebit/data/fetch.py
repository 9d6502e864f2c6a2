"""Find the files of a data set in a folder of the user, in the cache, or on an official mirror."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit.common.files import atomic_path
from onebit.data.splits import Progress, Source
from onebit.errors import DataError, first_line


@dataclass(frozen=True)
class OfficialFiles:
    """The files of a data set, all in one folder.

    Args:
        dataset: its name in `DATASETS`.
        folders: the sub-folders to look in; the first is also its folder in the cache.
        files: the possible names of each file on disk, best first; the first is its name on the mirrors or in the
            archive.
        mirrors: URLs to append a file name to, in the order to try.
        served: checksums, as in "md5:…", by the names of what the mirrors serve: the files, or a tar archive of them,
            in a folder named like that in the cache.
    """

    dataset: str
    folders: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]
    mirrors: tuple[str, ...]
    served: Mapping[str, str]


def cache_dir() -> Path:
    """The folder for downloads: `ONEBIT_CACHE`, else `onebit` in `XDG_CACHE_HOME` or in `~/.cache`."""
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("ONEBIT_CACHE") or os.path.join(shared, "onebit")).expanduser()


def find_or_fetch(official: OfficialFiles, *, directory: Source, progress: Progress | None) -> list[Path]:
    """Find or download all files of a data set; returns their paths in the order of `official.files`.

    Given a `directory`, only that is searched; otherwise each folder in `ONEBIT_DATA`, then the cache. The files may be
    in the folder itself or in one of its sub-folders `official.folders`; the first folder that has them all is used.
    Without a `directory`, missing files are downloaded into the cache and their checksums verified.

    Raises:
        DataError: `directory` lacks a file, or the files were not found and cannot be downloaded.
    """
    for folder in data_folders(directory, official.folders):
        present = _present(official, folder)
        if len(present) == len(official.files):
            return list(present.values())
    if directory is not None:
        needed = ", ".join(names[0] for names in official.files)
        raise DataError(f"{directory}: expected {needed}, there or in {' or '.join(official.folders)}")
    target = cache_dir() / official.folders[0]
    present = _present(official, target)
    missing = [names[0] for names in official.files if names not in present]
    for name, checksum in official.served.items():
        is_archive = ".tar" in name
        if is_archive or name in missing:
            _retrieve(name, checksum, official.mirrors, target, progress)
        if is_archive:
            _unpack(target / name, missing)
    return list(_present(official, target).values())


def own_path(name: str, directory: Source) -> Path:
    """The folder or file of a data set of the user."""
    if directory is None:
        raise DataError(f"data set {name!r} needs --data with its folder or file")
    return Path(directory).expanduser()


def data_folders(directory: Source, sub_folders: Sequence[str]) -> Iterator[Path]:
    """The folders to search: `directory` alone, or those in `ONEBIT_DATA` and the cache; each with its sub-folders."""
    if directory is not None:
        roots = [Path(directory)]
    else:
        named = os.environ.get("ONEBIT_DATA", "").split(os.pathsep)
        roots = [*map(Path, filter(None, named)), cache_dir()]
    for root in roots:
        yield from (root.expanduser() / name for name in ("", *sub_folders))


def find_folder(name: str, directory: Source, needed: Sequence[str]) -> Path:
    """The first of `data_folders`, with the sub-folder `name`, that has all `needed` ones; else DataError."""
    for folder in data_folders(directory, [name]):
        if all((folder / sub_folder).is_dir() for sub_folder in needed):
            return folder.resolve()
    raise DataError(
        f"data set {name!r} not found: name a folder with {' and '.join(needed)} by --data DIR or ONEBIT_DATA"
    )


def _present(official: OfficialFiles, folder: Path) -> dict[tuple[str, ...], Path]:
    """The path of each file that is in the folder, by its names."""
    present = {}
    for names in official.files:
        # os.path.isfile: Path.is_file raises in a folder without permission
        if paths := [folder / name for name in names if os.path.isfile(folder / name)]:
            present[names] = paths[0]
    return present


def _retrieve(name: str, checksum: str, mirrors: tuple[str, ...], target: Path, progress: Progress | None) -> None:
    """Download a file from the first mirror that has it."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # its messages on stderr would break the progress bar

    def download(url: str, output: str, _: Any) -> None:
        answer = requests.get(url, stream=True, timeout=(4, 20))  # seconds to connect, and between parts
        with answer, open(output, "wb") as file:
            answer.raise_for_status()
            for part in answer.iter_content(1 << 16):
                file.write(part)
                if progress is not None:
                    progress(f"fetching {name}", file.tell(), int(answer.headers.get("content-length", 0)))

    failures = []
    for mirror in mirrors:
        url = mirror + name
        try:
            pooch.retrieve(url, checksum, name, target, downloader=download)
            return
        except (OSError, ValueError) as error:  # ValueError: a wrong checksum
            # the message of a failed connection repeats the address and lists nested causes
            offline = isinstance(error, requests.ConnectionError)
            failures.append(f"{mirror}: {type(error).__name__ if offline else first_line(error)}")
    remedy = "put the files in a folder and name it with --data DIR or ONEBIT_DATA"
    raise DataError(f"cannot download {name}: {'; '.join(failures)}; {remedy}")


def _unpack(archive: Path, names: Sequence[str]) -> None:
    """Extract files from a tar archive, whose checksum was verified, into its folder; then delete it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name, content = os.path.basename(member.name), tar.extractfile(member) if member.isreg() else None
            if content is not None and name in names:
                with atomic_path(archive.parent / name) as temporary, temporary.open("wb") as out:
                    shutil.copyfileobj(content, out, 1 << 20)
    archive.unlink()
