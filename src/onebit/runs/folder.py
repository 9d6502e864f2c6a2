"""`RunFolder`: the files of a run, and who may write them. Imports no torch.

A run to replace is moved into a sub-folder until the new one has a checkpoint. Otherwise it is moved back; after a kill
by the next training in the folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onebit.common.files import json_text, read_json, write_atomic
from onebit.common.text import change_in_words
from onebit.errors import CheckpointError, UsageError
from onebit.recipe import Recipe, build_recipe, read_settings
from onebit.recipe.reading import RUN_RECIPE
from onebit.train.history import (
    DATA_FILE,
    MAX_RESULT,
    RESULT_FILE,
    RUN_FILES,
    STAGE_FOLDER,
    holds_run,
    refuse_used,
    task_folders,
)
from onebit.train.lock import lock_folder

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.train.ranks import Ranks

Found = TypeVar("Found")
SEEDS_FILE = "seeds.json"
PICTURE = "continual.png"
ASIDE = ".replaced-run"
"""The sub-folder of a run that is moved aside."""
MOVING = ".moved-run"
"""Its name until all files are moved."""
FILES = (
    *(RUN_RECIPE, "log.txt", DATA_FILE, SEEDS_FILE, PICTURE, "tensorboard", "wandb", "wandb-id"),
    *RUN_FILES,
)
"""The files of a run folder, beside the folders of seeds and tasks."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, of several seeds or of several tasks; it need not exist.

    Args:
        path: of the folder.
        ranks: this process among several, of which rank 0 reads and writes for all; None for a single process.
        resume: continue the run that it holds.
    """

    path: Path
    ranks: Ranks | None = None
    resume: bool = False

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> RunFolder:
        """The folder of a part: of a stage, a method, a task or a seed."""
        return replace(self, path=self.path / name)

    def seed(self, seed: int) -> RunFolder:
        """The run folder of one seed."""
        return self / f"seed-{seed}"

    def seeds(self) -> list[Path]:
        """The run folders of the seeds that it holds."""
        return sorted(path.parent for path in self.path.glob(f"seed-*/{RUN_RECIPE}"))

    @property
    def writes(self) -> bool:
        """Whether this process writes."""
        return self.ranks is None or self.ranks.writes

    def first(self, action: Callable[[], Found]) -> Found:
        """The result or the error of an action of rank 0."""
        return action() if self.ranks is None else self.ranks.first(action)

    def locked(self) -> AbstractContextManager[None]:
        """The context in which no other training may write into it."""
        return lock_folder(self.path, self.ranks)

    # -------------------------------------------------------------------------------------------------- the run in it
    def start(self, recipe: Recipe) -> bool:
        """Write recipe.yaml; returns whether there is a checkpoint to continue from.

        Raises:
            UsageError: it holds a run, which is not resumed. CheckpointError: the run has another recipe.
        """

        def begin() -> bool:
            if refuse_used(self.path, resume=self.resume):
                self.refuse_other(recipe)
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / RUN_RECIPE, recipe.to_yaml().encode())
            return any((part / "last.ckpt").exists() for part in (self.path, self.path / STAGE_FOLDER))

        return self.first(begin)

    def refuse_other(self, recipe: Recipe, data: Dataset | None = None) -> None:
        """Raise CheckpointError if the training in it has another recipe or other data."""
        if data is not None:
            self.refuse_other_data(data)
        if not (self.path / RUN_RECIPE).exists():
            return
        if changed := recipe.changed_from(build_recipe(read_settings(self.path / RUN_RECIPE))):
            # the number of epochs changes others: name their cause
            name, was, now = min(changed, key=lambda change: change[0] != "epochs")
            raise CheckpointError(f"{self}: {change_in_words(name, was, now)}")

    def finished(self, data: Dataset) -> bool:
        """Whether it has a result; CheckpointError if that is of other data."""

        def look() -> bool:
            self.refuse_other_data(data)
            return (self.path / RESULT_FILE).exists()

        return self.first(look)

    def write(self, name: str, values: Any, *, indent: int = 2) -> None:
        """Write a JSON file."""
        if self.writes:
            write_atomic(self.path / name, (json_text(values, indent=indent) + "\n").encode())

    # ------------------------------------------------------------------------------------------------------- its data
    def _data(self) -> Mapping[str, str]:
        """The fields of data.json."""
        try:
            return {key: str(value) for key, value in read_json(self.path / DATA_FILE, largest=MAX_RESULT).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    @property
    def data_directory(self) -> Path | None:
        """Where the data of its run were, or those of the first of its seeds, stages or tasks; None if unknown."""
        folders = [self.path, *sorted(path.parent for path in self.path.glob(f"*/**/{DATA_FILE}"))]
        known = (RunFolder(folder)._data().get("directory") for folder in folders)
        return next((Path(directory) for directory in known if directory is not None), None)

    def has_other_data(self, data: Dataset) -> bool:
        """Whether data differ from the stored digests of the run."""
        stored, now = self._data(), {"digest": data.digest, "test": data.test_digest}
        return any(stored.get(part, digest) != digest for part, digest in now.items())

    def has_other_files(self, data: Dataset) -> bool:
        """Whether the data files differ from those of the run; the splits may differ."""
        stored = self._data().get("files")
        return stored != data.files_digest if stored and data.files_digest else self.has_other_data(data)

    def refuse_other_data(self, data: Dataset) -> None:
        """Raise CheckpointError if its run, finished or not, was trained on other data."""
        trained = any((self.path / name).exists() for name in ("last.ckpt", RESULT_FILE))
        if trained and self.has_other_data(data):
            raise CheckpointError(f"{self}: was trained on other images or labels than these")

    # ------------------------------------------------------------------------------------------------ to write into it
    def is_run(self) -> bool:
        """Whether it has a run, or several of seeds or tasks."""
        return any((self.path / part).exists() for part in (ASIDE, MOVING)) or bool(self.written())

    def is_replaceable(self) -> bool:
        """Whether it is a run folder, or has nothing that a run would replace."""
        begun = (self.path / RUN_RECIPE).is_file() and (holds_run(self.path) or (self.path / "log.txt").exists())
        waiting = any((self.path / part).is_dir() for part in (ASIDE, MOVING))
        return begun or waiting or bool(self.seeds()) or not self.written()

    def written(self) -> list[Path]:
        """The parts of runs in it: files, and folders of seeds, stages and methods."""
        parts = {*self.seeds(), self.path / STAGE_FOLDER, *(task.parent for task in task_folders(self.path))}
        files = [self.path / name for name in FILES if "/" not in name]
        return [path for path in files if os.path.lexists(path)] + [path for path in sorted(parts) if path.is_dir()]

    @contextmanager
    def free(self) -> Iterator[RunFolder]:
        """The context in which the first unused of DIR, DIR-2, DIR-3, … is locked for this training."""
        with ExitStack() as stack:

            def take() -> Path:
                for number in itertools.count(1):
                    path = self.path if number == 1 else self.path.with_name(f"{self.path.name}-{number}")
                    if RunFolder(path).is_run():
                        continue
                    with ExitStack() as lock, suppress(UsageError):  # another training holds it
                        lock.enter_context(lock_folder(path))
                        if not RunFolder(path).is_run():  # another may have written before the lock
                            stack.push(lock.pop_all())
                            return path
                raise AssertionError

            yield replace(self, path=self.first(take))

    @contextmanager
    def replacing(self, *, wanted: bool, seeds: Sequence[int] | None = None) -> Iterator[None]:
        """Within the context the run in it is moved aside; at its end it is deleted or moved back.

        Args:
            wanted: whether to replace anything; a run that a killed training left aside is moved back in any case.
            seeds: those to replace in a folder of several; None for all.
        """
        several = seeds is not None and not holds_run(self.path)
        replaced = [self.seed(seed) for seed in seeds or ()] if several else [self]

        def set_aside() -> None:
            for folder in replaced:
                folder._set_aside()

        def settle() -> None:
            for path in {self.path, *(folder.path for folder in replaced), *self.path.glob("seed-*")}:
                RunFolder(path)._settle()

        self.first(settle)
        if wanted:
            self.first(set_aside)
        try:
            yield
        finally:
            if self.writes:
                settle()

    def _set_aside(self) -> None:
        """Move the run into `ASIDE`, which exists once all files are moved."""
        if paths := self.written():
            (self.path / MOVING).mkdir()
            for path in paths:
                path.rename(self.path / MOVING / path.name)
            (self.path / MOVING).rename(self.path / ASIDE)

    def _settle(self) -> None:
        """Delete a run that is aside, or partly aside, if the new one has a checkpoint, else move it back."""
        if (self.path / ASIDE).is_dir():
            paths = self.written()
            if not any(path.name == "last.ckpt" or any(path.rglob("last.ckpt")) for path in paths):
                for path in paths:
                    remove(path)
                (self.path / ASIDE).rename(self.path / MOVING)
        if (self.path / MOVING).is_dir():
            for path in (self.path / MOVING).iterdir():
                path.rename(self.path / path.name)
        for path in (self.path / ASIDE, self.path / MOVING):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()
