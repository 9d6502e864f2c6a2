"""Where the files of a data set are: in a folder of the user, in the cache, or on an official mirror.

pooch is imported only when something really has to be downloaded.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
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
        names: the names it may have on disk, best first; the first is its name on the mirrors or in the archive.
        sha256: of the file as the mirrors serve it, hex; "" for one that comes in an archive.
        size: its bytes in the archive.
    """

    names: tuple[str, ...]
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True)
class OfficialArchive:
    """A packed tar file that holds all files of a data set, in a folder with the name of its folder in the cache.

    Args:
        name: its name on the mirrors.
        checksum: kind and hex digits, as in "md5:…".
    """

    name: str
    checksum: str


@dataclass(frozen=True)
class OfficialFiles:
    """The files of a data set, which lie together in one folder.

    Args:
        dataset: its name in `DATASETS`.
        folders: the sub-folders to look in; the first is also its folder in the cache.
        files: the files.
        mirrors: addresses that a file name is appended to, tried in this order.
        archive: what the mirrors serve in place of the single files.
        substitute: what else could be used, the end of the message when the files are nowhere.
    """

    dataset: str
    folders: tuple[str, ...]
    files: tuple[OfficialFile, ...]
    mirrors: tuple[str, ...]
    archive: OfficialArchive | None = None
    substitute: str = ""


def cache_dir() -> Path:
    """The folder for downloads: `ONEBIT_CACHE`, else the platform's cache folder.

    The same folder as `pooch.os_cache("onebit")`, which would cost 40 ms of imports.
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
    """The paths of all files of a data set, in the order of `official.files`.

    Looked for in `directory` alone where one is named, otherwise in each folder of `ONEBIT_DATA`, then in the cache:
    right there or in one of the sub-folders `official.folders`. The first folder that has them all is taken. Where no
    folder is named, what the cache lacks is downloaded into it: to a temporary name, renamed when its sha256 is right.

    Raises:
        DataError: `directory` is not a folder or lacks a file; the files are nowhere and out of reach; the cache cannot
            be written.
    """
    if directory is not None and not Path(directory).expanduser().is_dir():
        raise DataError(f"{directory} is not a folder; expected one with the files of {official.dataset!r}")
    needed = ", ".join(file.names[0] for file in official.files)
    looked_at = []
    for root in data_roots(directory):
        found = [_present(official, folder) for folder in (root, *(root / name for name in official.folders))]
        best = max(found, key=len)
        if len(best) == len(official.files):
            return list(best.values())
        looked_at.append(f"{root} ({len(best)} of {len(official.files)} files)")
    if directory is not None:
        raise DataError(
            f"{directory} has {len(best)} of the {len(official.files)} files of {official.dataset!r}; "
            f"expected {needed}, there or in its sub-folders {', '.join(official.folders)}; "
            "without a named folder, ONEBIT_DATA and the cache are searched and missing files are downloaded"
        )
    try:
        return _download(official, cache_dir() / official.folders[0], progress)
    except _UnreachableError as error:
        raise DataError(
            f"data set {official.dataset!r} not found: needs {needed}; "
            f"looked in {', '.join(looked_at)} and the sub-folders {', '.join(official.folders)}; {error}; "
            f"put the files in a folder and name it with --data DIR or ONEBIT_DATA{official.substitute}"
        ) from error


class _UnreachableError(Exception):
    """No mirror gave the file; the message says why."""


def data_roots(directory: str | Path | None) -> Iterator[Path]:
    """The folders that data sets are looked for in: `directory` alone, or those of `ONEBIT_DATA`, then the cache."""
    if directory is not None:
        yield Path(directory).expanduser()
        return
    for folder in os.environ.get("ONEBIT_DATA", "").split(os.pathsep):
        if folder:
            yield Path(folder).expanduser()
    yield cache_dir()


def _present(official: OfficialFiles, folder: Path) -> dict[OfficialFile, Path]:
    found = {}
    for file in official.files:
        for name in file.names:
            # os.path.isfile is False, where Path.is_file raises, in a folder that may not be entered
            if os.path.isfile(folder / name):
                found[file] = folder / name
                break
    return found


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
    """Download a file from the first mirror that has it.

    Raises:
        _UnreachableError: none has. DataError: the cache cannot be written.
    """
    try:
        import pooch
        from requests.exceptions import HTTPError, RequestException
    except ImportError:
        raise _UnreachableError("downloading needs pooch: pip install 'onebit[train]'") from None
    pooch.get_logger().setLevel("WARNING")  # its talk on stderr would break the progress bar
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
        except ValueError as error:  # the checksum; pooch's first sentence says got and expected
            failures.append(f"{mirror} ({str(error).partition('. ')[0]})")
        except OSError as error:
            raise DataError(f"cannot write in the cache {target}: {error}; name another: ONEBIT_CACHE") from error
    raise _UnreachableError(f"could not download {name} from {', '.join(failures)}")


def _unpack(official: OfficialFiles, archive: Path, target: Path) -> None:
    """Write the official files of a tar archive into `target`, each all of it or not at all, and nothing else of it.

    Raises:
        DataError: damaged, or a file is missing, of another size, or no regular file.
    """
    wanted = {f"{official.folders[0]}/{file.names[0]}": file for file in official.files}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
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
                del wanted[member.name.removeprefix("./")]
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is damaged: {error}; delete it and fetch it again") from error
    if wanted:
        raise DataError(f"{archive}: does not hold {', '.join(wanted)}; delete it and fetch it again")


class _PoochProgress:
    """What pooch expects of a progress bar, handed on to a `Progress` function."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress
        self.total, self.done = 0, 0

    def update(self, count: int) -> None:
        # pooch counts whole chunks, so the last one may reach beyond the end
        self.done = min(self.done + count, self.total) if self.total else self.done + count
        self.progress(f"fetching {self.name}", self.done, self.total)

    def reset(self) -> None:
        pass  # pooch then adds the total once more, which `update` cuts off at the end

    def close(self) -> None:
        pass
