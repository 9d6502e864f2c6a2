"""Run folders on disk: what training runs write there, whether one is free, and how the run in one is replaced.

A run that is replaced waits in a sub-folder until the new training has made its first step. A training that is refused
or stopped before that brings it back; one that was killed leaves that to the next one. Loads no torch.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onebit.common.signals import uninterrupted
from onebit.errors import UsageError
from onebit.train.history import PLACE_FILE, RUN_FILES, STAGE_FOLDER, holds_run, task_folders
from onebit.train.lock import LOCK_FILE, lock_folder

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

RESULTS_TABLE = "results.csv"
SEEDS_FILE = "seeds.json"
PICTURE = "continual.png"
ASIDE = ".replaced-run"
"""Where a run waits."""
DELETED = ".deleted-run"
"""Where a run is while it is deleted: a folder is renamed at once, and deleted file by file."""
FILES = (
    *("recipe.yaml", "log.txt", PLACE_FILE, RESULTS_TABLE, SEEDS_FILE, PICTURE, "tensorboard", "wandb", "wandb-id"),
    *RUN_FILES,
)
"""What training runs write into a run folder, beside the folders of seeds and tasks."""


def seed_folder(folder: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return folder / f"seed-{seed}"


def seed_folders(folder: Path) -> list[Path]:
    """The run folders of the seeds that a folder of several seeds holds."""
    return sorted(path.parent for path in folder.glob("seed-*/recipe.yaml"))


def is_run_folder(folder: Path) -> bool:
    """Whether a training has written there: one run, or several of seeds or tasks."""
    parts = (folder / "recipe.yaml", folder / ASIDE)
    return holds_run(folder) or any(part.exists() for part in parts) or bool(seed_folders(folder))


def refuse_busy(folder: Path) -> None:
    """Refuse a folder into which another process trains, which may have written nothing yet."""
    if (folder / LOCK_FILE).exists():
        with lock_folder(folder):
            pass


@contextmanager
def free_folder(folder: Path, ranks: Ranks | None = None) -> Iterator[Path]:
    """The context in which the folder itself, else `folder-2`, `folder-3` …, is locked for this training.

    It is the first one where no training has written, or writes: two that start at once get different ones.

    Args:
        ranks: as for `lock_folder`.
    """
    with ExitStack() as stack:

        def take() -> Path:
            numbered = (f"{folder.name}-{number}" for number in itertools.count(2))
            names = itertools.chain([folder.name], numbered)
            while True:
                path = folder.with_name(next(names))
                if is_run_folder(path):
                    continue
                with ExitStack() as lock:
                    try:
                        lock.enter_context(lock_folder(path))
                    except UsageError:  # another training holds it
                        continue
                    if not is_run_folder(path):  # which may have written it before the lock
                        stack.push(lock.pop_all())
                        return path

        yield take() if ranks is None else ranks.first(take)


def is_replaceable(folder: Path) -> bool:
    """Whether all that training runs would replace there is theirs: a run folder, or one that is empty or not there."""
    begun = (folder / "recipe.yaml").is_file() and (holds_run(folder) or (folder / "log.txt").exists())
    if begun or seed_folders(folder) or (folder / ASIDE).is_dir() or not os.path.lexists(folder):
        return True
    # a training that has just begun has locked the folder and written nothing yet
    return folder.is_dir() and not any(path.name != LOCK_FILE for path in folder.iterdir())


@contextmanager
def replacing(
    folder: Path, ranks: Ranks, *, wanted: bool, seeds: Sequence[int] | None = None
) -> Iterator[Callable[[], None]]:
    """Within the context the run in a folder is out of the way; other files of the folder stay where they are.

    Yields:
        A function for after the first step, which deletes the run. Unless it is called, the run comes back.

    Args:
        wanted: whether to replace anything; a run that a killed training left aside comes back in any case.
        seeds: those to replace of a folder of several; None for all.
    """
    ranks.first(lambda: _bring_back(folder))
    if wanted:
        ranks.first(lambda: _set_aside(folder, seeds))
    try:
        yield lambda: _drop(folder) if ranks.writes else None
    finally:
        if ranks.writes:
            with uninterrupted():
                _bring_back(folder)


def _written_files(folder: Path, seeds: Sequence[int] | None) -> list[Path]:
    """What training runs wrote into a folder, and into those of its seeds, stages and tasks."""
    several = seed_folders(folder) if seeds is None else [seed_folder(folder, seed) for seed in seeds]
    parts = [part for run in (folder, *several) for part in (run, run / STAGE_FOLDER, *task_folders(run))]
    paths = [part / name for part in parts for name in FILES if os.path.lexists(part / name)]
    return list(dict.fromkeys(_outermost_link(path, folder) for path in paths))


def _outermost_link(path: Path, folder: Path) -> Path:
    """The first link on the way from a folder to a path, which is moved and not followed; without one, the path."""
    way = [folder / part for part in (*reversed(path.relative_to(folder).parents), path.relative_to(folder))]
    return next((part for part in way[1:] if part.is_symlink()), path)


def _set_aside(folder: Path, seeds: Sequence[int] | None = None) -> None:
    """Move what training runs wrote, and remove the folders that are empty then."""
    there = [path.relative_to(folder) for path in _written_files(folder, seeds)]
    if there:
        (folder / ASIDE).mkdir()
    for path in there:
        (folder / ASIDE / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).rename(folder / ASIDE / path)
    for part in sorted({part for path in there for part in path.parents[:-1]}, reverse=True):
        with suppress(OSError):  # not empty
            (folder / part).rmdir()


def _bring_back(folder: Path) -> None:
    """Put the waiting run back, over what a training without a step wrote; also one that was half set aside."""
    _remove(folder / DELETED)
    if not (folder / ASIDE).is_dir():
        return
    for path in list(_moved(folder / ASIDE)):
        home = folder / path.relative_to(folder / ASIDE)
        _remove(home)
        home.parent.mkdir(parents=True, exist_ok=True)
        path.rename(home)
    _remove(folder / ASIDE)


def _moved(aside: Path) -> Iterator[Path]:
    """What was moved: files, links, and the folders of trackers."""
    for path in aside.iterdir():
        if path.name in FILES or path.is_symlink() or not path.is_dir():
            yield path
        else:
            yield from _moved(path)


def _drop(folder: Path) -> None:
    with suppress(FileNotFoundError):
        (folder / ASIDE).rename(folder / DELETED)
    _remove(folder / DELETED)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()
