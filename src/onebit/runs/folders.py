"""Run folders on disk: their files, a free one, and replacing the run in one; without torch.

A run to replace is moved into a sub-folder until the new one has a checkpoint. Otherwise it is moved back; after a kill
by the next training in the folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onebit.errors import UsageError
from onebit.train.history import DATA_FILE, RUN_FILES, STAGE_FOLDER, holds_run, task_folders
from onebit.train.lock import lock_folder

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

SEEDS_FILE = "seeds.json"
PICTURE = "continual.png"
ASIDE = ".replaced-run"
"""The sub-folder of a run that is moved aside."""
MOVING = ".moved-run"
"""Its name until all files are moved."""
FILES = (
    *("recipe.yaml", "log.txt", DATA_FILE, SEEDS_FILE, PICTURE, "tensorboard", "wandb", "wandb-id"),
    *RUN_FILES,
)
"""The files of a run folder, beside the folders of seeds and tasks."""


def seed_folder(folder: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return folder / f"seed-{seed}"


def seed_folders(folder: Path) -> list[Path]:
    """The run folders of the seeds that a folder of several seeds holds."""
    return sorted(path.parent for path in folder.glob("seed-*/recipe.yaml"))


def is_run_folder(folder: Path) -> bool:
    """Whether a folder has a run, or several of seeds or tasks."""
    return any((folder / part).exists() for part in (ASIDE, MOVING)) or bool(written(folder))


@contextmanager
def free_folder(folder: Path, ranks: Ranks | None = None) -> Iterator[Path]:
    """The context in which the first unused of `folder`, `folder-2`, `folder-3`, … is locked for this training."""
    with ExitStack() as stack:

        def take() -> Path:
            for number in itertools.count(1):
                path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
                if is_run_folder(path):
                    continue
                with ExitStack() as lock, suppress(UsageError):  # another training holds it
                    lock.enter_context(lock_folder(path))
                    if not is_run_folder(path):  # another may have written before the lock
                        stack.push(lock.pop_all())
                        return path
            raise AssertionError

        yield take() if ranks is None else ranks.first(take)


def is_replaceable(folder: Path) -> bool:
    """Whether a folder is a run folder, or has nothing that a run would replace."""
    begun = (folder / "recipe.yaml").is_file() and (holds_run(folder) or (folder / "log.txt").exists())
    waiting = any((folder / part).is_dir() for part in (ASIDE, MOVING))
    return begun or waiting or bool(seed_folders(folder)) or not written(folder)


@contextmanager
def replacing(folder: Path, ranks: Ranks, *, wanted: bool, seeds: Sequence[int] | None = None) -> Iterator[None]:
    """Within the context the run in a folder is moved aside; at its end it is deleted or moved back.

    Args:
        wanted: whether to replace anything; a run that a killed training left aside is moved back in any case.
        seeds: those to replace in a folder of several; None for all.
    """
    several = seeds is not None and not holds_run(folder)
    replaced = [seed_folder(folder, seed) for seed in seeds or ()] if several else [folder]

    def settle() -> None:
        for path in {folder, *replaced, *folder.glob("seed-*")}:
            _settle(path)

    ranks.first(settle)
    if wanted:
        ranks.first(lambda: _set_aside(replaced))
    try:
        yield
    finally:
        if ranks.writes:
            settle()


def written(folder: Path) -> list[Path]:
    """The parts of runs in a folder: files, and folders of seeds, stages and methods."""
    parts = {*seed_folders(folder), folder / STAGE_FOLDER, *(task.parent for task in task_folders(folder))}
    files = [folder / name for name in FILES if "/" not in name]
    return [path for path in files if os.path.lexists(path)] + [path for path in sorted(parts) if path.is_dir()]


def _set_aside(folders: Sequence[Path]) -> None:
    """Move the run of each folder into its `ASIDE`, which exists once all files are moved."""
    for folder in folders:
        if paths := written(folder):
            (folder / MOVING).mkdir()
            for path in paths:
                path.rename(folder / MOVING / path.name)
            (folder / MOVING).rename(folder / ASIDE)


def _settle(folder: Path) -> None:
    """Delete a run that is aside, or partly aside, if the new one has a checkpoint, else move it back."""
    if (folder / ASIDE).is_dir():
        paths = written(folder)
        if not any(path.name == "last.ckpt" or any(path.rglob("last.ckpt")) for path in paths):
            for path in paths:
                remove(path)
            (folder / ASIDE).rename(folder / MOVING)
    if (folder / MOVING).is_dir():
        for path in (folder / MOVING).iterdir():
            path.rename(folder / path.name)
    for path in (folder / ASIDE, folder / MOVING):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()
