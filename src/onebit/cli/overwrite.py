"""A run folder that is already used: a new one by number, or the run in it is replaced.

A run that is replaced waits in a sub-folder until the new training has made its first step. A training that is refused
or stopped before that brings it back, one that was killed leaves that to the next one.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onebit.cli.continual import PICTURE
from onebit.cli.results_table import RESULTS_TABLE
from onebit.cli.seeds import SUMMARY_FILE, seed_folders
from onebit.errors import UsageError
from onebit.train.history import RUN_FILES, holds_run, task_folders

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

ASIDE = ".replaced-run"
"""Where a run waits."""
DELETED = ".deleted-run"
"""Where it is when it is not wanted any more: to rename a folder is one step, to delete it is not."""
FILES = (
    "recipe.yaml",
    "log.txt",
    "data.json",
    RESULTS_TABLE,
    SUMMARY_FILE,
    PICTURE,
    "tensorboard",
    "wandb",
    "wandb-id",
    *RUN_FILES,
)
"""What trainings write into a run folder, beside the folders of seeds and tasks."""


def is_taken(folder: Path) -> bool:
    """Whether a training has written there: one run, or several of seeds or tasks."""
    return (
        holds_run(folder)
        or (folder / "recipe.yaml").exists()
        or bool(seed_folders(folder))
        or (folder / ASIDE).exists()
    )


def free_folder(folder: Path) -> Path:
    """The folder itself, else `folder-2`, `folder-3` …, the first one where no training has written."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not is_taken(path))


def refuse_other_folder(folder: Path) -> None:
    """Keep `--overwrite` away from anything but a run folder, or one that is not there or empty.

    Raises:
        UsageError: it is something else.
    """
    begun = holds_run(folder) or (folder / "log.txt").exists()
    is_run = (begun and (folder / "recipe.yaml").is_file()) or seed_folders(folder)
    if not is_run and not (folder / ASIDE).is_dir() and os.path.lexists(folder) and not _is_empty(folder):
        raise UsageError(f"--overwrite replaces run folders only, and {folder} is not one: choose another --out")


def refuse_own_weights(folder: Path, read: Mapping[str, str | None]) -> None:
    """Keep `--overwrite` away from the run whose weights the new training reads.

    Args:
        read: flag -> the run folder or weight file that it names.

    Raises:
        UsageError: one of them is the folder, or in it.
    """
    replaced = Path(os.path.realpath(folder))
    for flag, path in read.items():
        if path and Path(os.path.realpath(path)).is_relative_to(replaced):
            raise UsageError(f"--overwrite replaces {folder}, which --{flag} {path} reads: choose another --out")


@contextmanager
def replacing(folder: Path, ranks: Ranks, *, wanted: bool) -> Iterator[Callable[[], None]]:
    """Within the context the run in a folder is out of the way; other files of the folder stay where they are.

    Yields:
        What is called after the first step: the run is gone then. Where it is not called, the run comes back.

    Args:
        wanted: whether to replace anything; a run that a killed training left aside comes back in any case.
    """
    ranks.first(lambda: _bring_back(folder))
    if wanted:
        ranks.first(lambda: _set_aside(folder))
    try:
        yield lambda: _drop(folder) if ranks.writes else None
    finally:
        if ranks.writes:
            _bring_back(folder)


def _set_aside(folder: Path) -> None:
    paths = [folder / name for name in FILES] + seed_folders(folder) + [task.parent for task in task_folders(folder)]
    there = [path for path in dict.fromkeys(paths) if os.path.lexists(path)]
    if there:
        (folder / ASIDE).mkdir()
    for path in there:
        path.rename(folder / ASIDE / path.name)


def _bring_back(folder: Path) -> None:
    """Put the run back that waits, over what a training wrote that made no step; also one that was half set aside."""
    _remove(folder / DELETED)
    if not (folder / ASIDE).is_dir():
        return
    for path in (folder / ASIDE).iterdir():
        _remove(folder / path.name)
        path.rename(folder / path.name)
    (folder / ASIDE).rmdir()


def _drop(folder: Path) -> None:
    with suppress(FileNotFoundError):
        (folder / ASIDE).rename(folder / DELETED)
    _remove(folder / DELETED)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
