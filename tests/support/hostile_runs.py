"""A run whose files are damaged, and bounds on the time and memory of reading them."""

from __future__ import annotations

import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from onebit.data import load_dataset
from onebit.errors import MAX_MESSAGE_LENGTH, OnebitError
from onebit.recipe import build_recipe
from onebit.runs.folder import RunFolder
from onebit.runs.run import train_run

SECONDS = 60
"""Far more than any of them needs; a reader that hangs is stopped."""
MEMORY = 1_500_000  # kB
TOY: dict[str, Any] = {
    **{"dataset": "toy", "validation": 256, "model": {"widths": [64, 8, 4]}, "epochs": 2, "batch_size": 1792},
    **{"device": "cpu", "threads": 1},
}
DATA = load_dataset("toy")


@contextmanager
def bounded() -> Iterator[None]:
    """Within the context nothing takes longer than SECONDS, or more memory than MEMORY beyond what there was."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def outcome(read: Callable[[], Any], error: type[OnebitError] | tuple[type[OnebitError], ...] = OnebitError) -> str:
    """ "read", or "refused" in one line with an error of this type; nothing else is a way out."""
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except error as caught:
            text = str(caught)
            assert "\n" not in text
            assert text.isprintable()
            assert len(text.partition("; known: ")[0]) < 500, text  # a list of the names that there are may follow
            assert len(text) <= MAX_MESSAGE_LENGTH
            return "refused"
    return "read"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `DATA`."""
    folder = tmp_path_factory.mktemp("run") / "run"
    recipe = build_recipe(TOY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = RunFolder(folder)
        run.start(recipe)
        train_run(recipe, DATA, run)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path
