"""Where the files of a data set are: in a folder of the user, in the cache, or on an official mirror.

pooch is imported only when something really has to be downloaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onebit.data.splits import Progress
from onebit.errors import DataError

CONNECT_SECONDS = 4.0
READ_SECONDS = 20.0


@dataclass(frozen=True)
class OfficialFile:
    """One official file.

    Args:
        names: the names it may have on disk, best first; the first is its name on the mirrors.
        sha256: of the file as the mirrors serve it, hex.
    """

    names: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class OfficialFiles:
    """The files of a data set, which lie together in one folder.

    Args:
        dataset: its name in `DATASETS`.
        folders: the sub-folders to look in; the first is also its folder in the cache.
        files: the files.
        mirrors: addresses that a file name is appended to, tried in this order.
    """

    dataset: str
    folders: tuple[str, ...]
    files: tuple[OfficialFile, ...]
    mirrors: tuple[str, ...]


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

    Looked for in `directory`, then in each folder of `ONEBIT_DATA`, then in the cache: right there or in one of the
    sub-folders `official.folders`. The first folder that has them all is taken. Otherwise what the cache lacks is
    downloaded into it: to a temporary name, renamed when its sha256 is right.

    Raises:
        DataError: `directory` is no folder; the files are nowhere and out of reach; the cache cannot be written.
    """
    if directory is not None and not Path(directory).expanduser().is_dir():
        raise DataError(f"{directory} is not a folder; expected one with the files of {official.dataset!r}")
    looked_at = []
    for root in _roots(directory):
        found = [_present(official, folder) for folder in (root, *(root / name for name in official.folders))]
        best = max(found, key=len)
        if len(best) == len(official.files):
            return list(best.values())
        looked_at.append(f"{root} ({len(best)} of {len(official.files)} files)")
    try:
        return _download(official, cache_dir() / official.folders[0], progress)
    except _UnreachableError as error:
        raise DataError(
            f"data set {official.dataset!r} not found: needs {', '.join(file.names[0] for file in official.files)}; "
            f"looked in {', '.join(looked_at)}; {error}; "
            "put the files in a folder and name it with --data DIR or ONEBIT_DATA, or use the shipped 'mnist-sample'"
        ) from error


class _UnreachableError(Exception):
    """No mirror gave the file; the message says why."""


def _roots(directory: str | Path | None) -> Iterator[Path]:
    if directory is not None:
        yield Path(directory).expanduser()
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
    try:
        import pooch
        from requests.exceptions import HTTPError, RequestException
    except ImportError:
        raise _UnreachableError("downloading needs pooch: pip install 'onebit[train]'") from None
    pooch.get_logger().setLevel("WARNING")  # its talk on stderr would break the progress bar
    present = _present(official, target)
    for file in official.files:
        if file in present:
            continue
        failures = []
        for mirror in official.mirrors:
            downloader = pooch.HTTPDownloader(
                progressbar=_PoochProgress(file.names[0], progress) if progress else False,
                chunk_size=1 << 16,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
            )
            try:
                pooch.retrieve(
                    mirror + file.names[0], f"sha256:{file.sha256}", file.names[0], target, downloader=downloader
                )
                break
            except HTTPError as error:
                failures.append(f"{mirror} ({str(error).partition(' for url')[0]})")
            except RequestException as error:
                failures.append(f"{mirror} ({type(error).__name__})")
            except ValueError as error:  # the checksum; pooch's first sentence says got and expected
                failures.append(f"{mirror} ({str(error).partition('. ')[0]})")
            except OSError as error:
                raise DataError(f"cannot write in the cache {target}: {error}; name another: ONEBIT_CACHE") from error
        else:
            raise _UnreachableError(f"could not download {file.names[0]} from {', '.join(failures)}")
    return list(_present(official, target).values())


class _PoochProgress:
    """What pooch expects of a progress bar, handed on to a `Progress` function."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress
        self.total, self.done = 0, 0

    def update(self, count: int) -> None:
        # pooch counts whole chunks, so the last one may reach beyond the end
        self.done = min(self.done + count, self.total) if self.total else self.done + count
        self.progress(self.name, self.done, self.total)

    def reset(self) -> None:
        pass  # pooch then adds the total once more, which `update` cuts off at the end

    def close(self) -> None:
        pass
