"""Finds the files of a data set: in a folder of the user, in the cache, or on an official mirror.

pooch is imported only for a download.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onebit.common.files import atomic_path
from onebit.data.splits import Progress
from onebit.errors import DataError

CONNECT_SECONDS = 4.0
READ_SECONDS = 20.0


@dataclass(frozen=True)
class OfficialFile:
    """One official file.

    Args:
        names: its possible names on disk, best first; the first is its name on the mirrors or in the archive.
        sha256: of the file as the mirrors serve it, hex; "" for a file in an archive.
        size: its size in the archive in bytes.
    """

    names: tuple[str, ...]
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True)
class OfficialArchive:
    """A compressed tar file with all files of a data set, in a folder named like its folder in the cache.

    Args:
        checksum: algorithm and hex digits, as in "md5:…".
    """

    name: str
    checksum: str


@dataclass(frozen=True)
class OfficialFiles:
    """The files of a data set, all in one folder.

    Args:
        dataset: its name in `DATASETS`.
        folders: the sub-folders to look in; the first is also its folder in the cache.
        files: the files.
        mirrors: URLs to append a file name to, in the order to try.
        archive: what the mirrors serve instead of single files.
        substitute: an alternative to suggest at the end of the message if the files cannot be found.
    """

    dataset: str
    folders: tuple[str, ...]
    files: tuple[OfficialFile, ...]
    mirrors: tuple[str, ...]
    archive: OfficialArchive | None = None
    substitute: str = ""


def cache_dir() -> Path:
    """The folder for downloads: `ONEBIT_CACHE`, else the platform's cache folder.

    The same folder as `pooch.os_cache("onebit")`, without the 40 ms to import pooch.
    """
    own = os.environ.get("ONEBIT_CACHE")
    if own:
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME", "").strip()
    if os.path.isabs(xdg):
        return Path(xdg) / "onebit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "onebit" / "onebit" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "onebit"
    return Path.home() / ".cache" / "onebit"


def find_or_fetch(official: OfficialFiles, *, directory: str | Path | None, progress: Progress | None) -> list[Path]:
    """Find or download all files of a data set; returns their paths in the order of `official.files`.

    Given a `directory`, only that is searched; otherwise each folder in `ONEBIT_DATA`, then the cache. The files may be
    in the folder itself or in one of its sub-folders `official.folders`; the first folder that has them all is used.
    Without a `directory`, missing files are downloaded into the cache, under a temporary name until the checksum has
    been verified.

    Raises:
        DataError: `directory` is not a folder or lacks a file; the files were not found and cannot be downloaded; the
            cache cannot be written.
    """
    if directory is not None and not Path(directory).expanduser().is_dir():
        raise DataError(f"{directory} is not a folder; expected one with the files of {official.dataset!r}")
    needed = ", ".join(file.names[0] for file in official.files)
    searched = []
    for root in data_roots(directory):
        best = max(
            (_present(official, folder) for folder in (root, *(root / name for name in official.folders))), key=len
        )
        if len(best) == len(official.files):
            return list(best.values())
        searched.append(f"{root} ({len(best)} of {len(official.files)} files)")
    if directory is not None:
        raise DataError(
            f"{directory} has {len(best)} of the {len(official.files)} files of {official.dataset!r}; "
            f"expected {needed}, there or in its sub-folders {', '.join(official.folders)}; "
            "leave out the folder to search ONEBIT_DATA and the cache and to download missing files"
        )
    try:
        return _download(official, cache_dir() / official.folders[0], progress)
    except _UnreachableError as error:
        raise DataError(
            f"data set {official.dataset!r} not found: needs {needed}; "
            f"looked in {', '.join(searched)} and the sub-folders {', '.join(official.folders)}; {error}; "
            f"put the files in a folder and name it with --data DIR or ONEBIT_DATA{official.substitute}"
        ) from error


class _UnreachableError(Exception):
    """The file could not be downloaded; the message says why."""


def own_path(name: str, directory: str | Path | None) -> Path:
    """The folder or file of a data set of the user's own."""
    if directory is None:
        raise DataError(f"data set {name!r} is your own: name its folder or file with --data")
    return Path(directory).expanduser()


def data_roots(directory: str | Path | None) -> Iterator[Path]:
    """The folders to search for data sets: `directory` alone, or those in `ONEBIT_DATA` and then the cache."""
    if directory is not None:
        yield Path(directory).expanduser()
        return
    for folder in os.environ.get("ONEBIT_DATA", "").split(os.pathsep):
        if folder:
            yield Path(folder).expanduser()
    yield cache_dir()


def find_folder(name: str, directory: str | Path | None, sub_folders: Sequence[str], *, needs: str) -> Path:
    """The first of `data_roots`, or of their sub-folders `name`, with all of the given sub-folders; else DataError."""
    places = [place for root in data_roots(directory) for place in (root, root / name)]
    for place in places:
        if all((place / sub_folder).is_dir() for sub_folder in sub_folders):
            return place.resolve()
    raise DataError(
        f"data set {name!r} not found: needs {needs}; looked in {', '.join(map(str, places))}; "
        "name the folder that holds them with --data DIR or ONEBIT_DATA"
    )


def _present(official: OfficialFiles, folder: Path) -> dict[OfficialFile, Path]:
    """The path of each file that is in the folder."""
    present = {}
    for file in official.files:
        # os.path.isfile: Path.is_file raises in a folder without permission
        if paths := [folder / name for name in file.names if os.path.isfile(folder / name)]:
            present[file] = paths[0]
    return present


def _download(official: OfficialFiles, target: Path, progress: Progress | None) -> list[Path]:
    if official.archive is not None:
        archive = official.archive
        _retrieve(archive.name, archive.checksum, official.mirrors, target, progress)
        _unpack(official, target / archive.name, target)
        (target / archive.name).unlink()
    else:
        present = _present(official, target)
        for file in official.files:
            if file not in present:
                _retrieve(file.names[0], f"sha256:{file.sha256}", official.mirrors, target, progress)
    return list(_present(official, target).values())


def _retrieve(name: str, checksum: str, mirrors: tuple[str, ...], target: Path, progress: Progress | None) -> None:
    """Download a file from the first mirror that has it."""
    try:
        import pooch
        from requests.exceptions import HTTPError, RequestException
    except ImportError:
        raise _UnreachableError("downloading needs pooch: pip install 'onebit[train]'") from None
    pooch.get_logger().setLevel("WARNING")  # its messages on stderr would break the progress bar
    failures = []
    for mirror in mirrors:
        downloader = pooch.HTTPDownloader(
            progressbar=_PoochProgress(name, progress) if progress else False,
            chunk_size=1 << 16,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
        )
        try:
            pooch.retrieve(mirror + name, checksum, name, target, downloader=downloader)
            return
        except HTTPError as error:
            failures.append(f"{mirror} ({str(error).partition(' for url')[0]})")
        except RequestException as error:
            failures.append(f"{mirror} ({type(error).__name__})")
        except ValueError as error:  # a wrong checksum; the first sentence of pooch says got and expected
            failures.append(f"{mirror} ({str(error).partition('. ')[0]})")
        except OSError as error:
            raise DataError(f"cannot write in the cache {target}: {error}; name another: ONEBIT_CACHE") from error
    raise _UnreachableError(f"could not download {name} from {', '.join(failures)}")


def _unpack(official: OfficialFiles, archive: Path, target: Path) -> None:
    """Extract only the official files from a tar archive into `target`, each completely or not at all."""
    missing = {f"{official.folders[0]}/{file.names[0]}": file for file in official.files}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                file = missing.get(member.name.removeprefix("./"))
                if file is None:
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.size != file.size:
                    raise DataError(
                        f"{archive}: {member.name} is damaged: got {member.size:,} bytes, "
                        f"expected a regular file of {file.size:,}; delete the archive and fetch it again"
                    )
                with atomic_path(target / file.names[0]) as temporary, temporary.open("wb") as out:
                    shutil.copyfileobj(content, out, 1 << 20)
                del missing[member.name.removeprefix("./")]
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is damaged: {error}; delete it and fetch it again") from error
    if missing:
        raise DataError(f"{archive}: does not hold {', '.join(missing)}; delete it and fetch it again")


class _PoochProgress:
    """Passes the progress that pooch reports on to a `Progress` function."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress
        self.total, self.done = 0, 0

    def update(self, count: int) -> None:
        # pooch counts whole chunks, and the last one may be shorter
        self.done = min(self.done + count, self.total) if self.total else self.done + count
        self.progress(f"fetching {self.name}", self.done, self.total)

    def reset(self) -> None:
        pass  # pooch then adds the total once more, which `update` limits

    def close(self) -> None:
        pass
