"""Where the files of a data set are searched, and how they are downloaded."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from onebit.data.fetch import OfficialFiles, cache_dir, find_or_fetch
from onebit.errors import DataError
from support.tiny_mnist import Mirror, TinyMnist


def official(tiny: TinyMnist, *mirrors: str) -> OfficialFiles:
    served = {file.names[0]: f"sha256:{file.gz_sha256}" for file in tiny.files}
    return OfficialFiles("mnist", ("mnist", "MNIST/raw"), tuple(file.names for file in tiny.files), mirrors, served)


def folder_found(tiny: TinyMnist, directory: Path | None = None, *mirrors: str) -> Path:
    paths = find_or_fetch(official(tiny, *mirrors), directory=directory, progress=None)
    assert [path.name for path in paths] == [f"{file.name}.gz" for file in tiny.files]
    (folder,) = {path.parent for path in paths}
    return folder


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def test_order_is_environment_then_cache(tiny: TinyMnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    tiny.write(first, which=(0, 1, 2))  # a folder that lacks a file is skipped
    monkeypatch.setenv("ONEBIT_DATA", os.pathsep.join([str(first), str(second), ""]))
    in_cache = tiny.write(tmp_path / "cache" / "mnist")
    assert folder_found(tiny) == in_cache
    in_second = tiny.write(second / "mnist")
    assert folder_found(tiny) == in_second
    in_first = tiny.write(first)
    assert folder_found(tiny) == in_first


def test_a_named_folder_is_the_only_one(tiny: TinyMnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete files elsewhere, and mirrors, are not used in place of a folder that was named by mistake."""
    tiny.write(tmp_path / "elsewhere")
    tiny.write(tmp_path / "cache" / "mnist")
    monkeypatch.setenv("ONEBIT_DATA", str(tmp_path / "elsewhere"))
    own = tiny.write(tmp_path / "own" / "mnist", which=(0, 3)).parent
    with pytest.raises(DataError) as caught:
        find_or_fetch(official(tiny, closed_port()), directory=own, progress=None)
    assert all(f"{file.name}.gz" in str(caught.value) for file in tiny.files)
    assert sorted(path.name for path in own.rglob("*.gz")) == sorted(f"{tiny.files[i].name}.gz" for i in (0, 3))
    tiny.write(own / "MNIST" / "raw")
    assert folder_found(tiny, own) == own / "MNIST" / "raw"


def test_all_names_are_accepted_and_gz_is_preferred(tiny: TinyMnist, tmp_path: Path) -> None:
    names = [
        "train-images.idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images.idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte",
    ]
    for name in names:
        (tmp_path / name).touch()
    paths = find_or_fetch(official(tiny), directory=tmp_path, progress=None)
    assert [path.name for path in paths] == names
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    paths = find_or_fetch(official(tiny), directory=tmp_path, progress=None)
    assert paths[0].name == "train-images-idx3-ubyte.gz"


def test_a_slow_mirror_times_out(tiny: TinyMnist, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mirror is asked once, with short time limits; the first file decides."""
    import requests

    asked = []

    def time_out(url: str, *, stream: bool, timeout: tuple[float, float]) -> None:
        asked.append((url, timeout))
        raise requests.exceptions.ConnectTimeout("no answer")

    monkeypatch.setattr(requests, "get", time_out)
    with pytest.raises(DataError, match=r"http://one/.*http://two/"):
        find_or_fetch(official(tiny, "http://one/", "http://two/"), directory=None, progress=None)
    assert [url for url, _ in asked] == [f"http://{host}/train-images-idx3-ubyte.gz" for host in ("one", "two")]
    assert all(connect <= 5 and read <= 30 for _, (connect, read) in asked)


def test_an_unreachable_mirror_is_reported_shortly(tiny: TinyMnist) -> None:
    with pytest.raises(DataError, match="ConnectionError") as caught:
        find_or_fetch(official(tiny, "http://127.0.0.1:1/"), directory=None, progress=None)
    assert len(str(caught.value)) < 200


def test_download_into_the_cache_then_found_there(
    tiny: TinyMnist, tmp_path: Path, serve: Callable[[Path], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    talk: list[object] = []
    monkeypatch.setattr(pooch.get_logger(), "handle", talk.append)
    mirror = serve(tiny.write(tmp_path / "mirror"))
    calls: list[tuple[str, int, int]] = []
    paths = find_or_fetch(official(tiny, mirror.address), directory=None, progress=lambda *call: calls.append(call))
    assert {path.parent for path in paths} == {tmp_path / "cache" / "mnist"}
    assert [path.read_bytes() for path in paths] == tiny.packed
    for file, packed in zip(tiny.files, tiny.packed, strict=True):
        sizes = [(done, total) for name, done, total in calls if name == f"fetching {file.name}.gz"]
        assert sizes[-1] == (len(packed), len(packed))
        assert all(0 < done <= total for done, total in sizes)
    assert len(mirror.requests) == 4
    assert folder_found(tiny, None, mirror.address) == tmp_path / "cache" / "mnist"
    assert len(mirror.requests) == 4  # nothing is requested twice
    assert talk == []  # the library is silent


def test_only_missing_files_are_downloaded(tiny: TinyMnist, tmp_path: Path, serve: Callable[[Path], Mirror]) -> None:
    mirror = serve(tiny.write(tmp_path / "mirror"))
    cache = tiny.write(tmp_path / "cache" / "mnist", which=(0, 2))
    unpacked = cache / tiny.files[3].name
    unpacked.write_bytes(tiny.contents[3])
    assert find_or_fetch(official(tiny, mirror.address), directory=None, progress=None)[3] == unpacked
    assert mirror.requests == ["/train-labels-idx1-ubyte.gz"]


def test_a_corrupted_download_is_refused_and_leaves_nothing(
    tiny: TinyMnist, tmp_path: Path, serve: Callable[[Path], Mirror]
) -> None:
    folder = tiny.write(tmp_path / "mirror")
    first = folder / "train-images-idx3-ubyte.gz"
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match=tiny.files[0].gz_sha256):
        find_or_fetch(official(tiny, serve(folder).address), directory=None, progress=None)
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def test_the_next_mirror_is_tried(tiny: TinyMnist, tmp_path: Path, serve: Callable[[Path], Mirror]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    corrupted = tmp_path / "corrupted"
    corrupted.mkdir()
    (corrupted / "train-images-idx3-ubyte.gz").write_bytes(b"not what it should be")
    good = serve(tiny.write(tmp_path / "good"))
    folder_found(tiny, None, serve(empty).address, serve(corrupted).address, good.address)
    assert len(good.requests) == 4


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEBIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "onebit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "onebit"
    monkeypatch.setenv("ONEBIT_CACHE", "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"
