"""Fixtures for the tests of data sets: an isolated environment, small files, a local web server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.tiny_mnist import Mirror, TinyMnist


@pytest.fixture(autouse=True)
def closed_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data folder, an empty cache, and no proxy between the tests and the local server."""
    monkeypatch.delenv("ONEBIT_DATA", raising=False)
    monkeypatch.setenv("ONEBIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def tiny() -> TinyMnist:
    return TinyMnist()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Mirror]]:
    """`serve(folder)` starts a mirror that serves the files in the folder."""
    mirrors: list[Mirror] = []

    def start(folder: Path) -> Mirror:
        mirrors.append(Mirror(folder))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.stop()
