"""The run folder that a command line of `onebit train` names, and whether it may be used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onebit.errors import UsageError
from onebit.recipe import recipe_names
from onebit.runs.folders import is_replaceable, refuse_busy, seed_folder, seed_folders
from onebit.train.history import holds_run, refuse_used


def named_folder(*, out: str | None, resumed: str | None, saved: Path | None) -> Path | None:
    """The one folder that --out, --resume and the classic --results_dir and --save name.

    Raises:
        UsageError: they name different ones.
    """
    named = {
        "--out": Path(out) if out else None,
        "--resume": resumed_folder(resumed) if resumed else None,
        "--results_dir and --save": saved,
    }
    given = {flag: folder for flag, folder in named.items() if folder is not None}
    if len({os.path.realpath(folder) for folder in given.values()}) > 1:
        names = ", ".join(f"{flag} names {folder}" for flag, folder in given.items())
        raise UsageError(f"{names}: leave one of them out")
    return next(iter(given.values()), None)


def resumed_folder(resumed: str) -> Path:
    """The run folder that `--resume RUN` means: the folder itself, or that of its last.ckpt.

    Raises:
        UsageError: another file.
    """
    path = Path(resumed)
    if path.name == "last.ckpt" and path.is_file():
        return path.parent
    if path.is_file():
        raise UsageError(
            f"--resume {resumed}: a training goes on from a run folder or its last.ckpt; "
            f"to start from the weights of a file: --init_from {resumed}"
        )
    if path.suffix == ".ckpt":
        raise UsageError(f"--resume {resumed}: no such checkpoint; name a run folder or its last.ckpt")
    return path


def stored_recipe(resumed: str) -> Path:
    """The recipe in a run folder, or in that of the first of several seeds.

    Raises:
        UsageError: none there.
    """
    folder = resumed_folder(resumed)
    found = [path for path in (folder, *seed_folders(folder)) if (path / "recipe.yaml").is_file()]
    if not found:
        refuse_busy(folder)
        first = f"; the recipe comes first: onebit train {resumed} --resume" if resumed in recipe_names() else ""
        raise UsageError(f"--resume {resumed}: no run there (it has no recipe.yaml){first}")
    return found[0] / "recipe.yaml"


def refuse_used_folder(folder: Path, seeds: Sequence[int] | None, *, resume: bool) -> None:
    """Keep a training out of a folder that holds others.

    Args:
        seeds: those that are trained; None for a training into the folder itself.

    Raises:
        UsageError: a run is there and `resume` is False, the runs of several seeds where one is trained, or
            a single run where several seeds are.
    """
    if seeds is None:
        if found := seed_folders(folder):
            raise UsageError(
                f"{folder} holds the runs of several seeds ({found[0].name} …): add --seeds, or name one of them"
            )
        refuse_used(folder, resume=resume)
        return
    if holds_run(folder):
        raise UsageError(f"{folder} holds a single run: leave --seeds out, or choose another --out")
    used = next((run for run in (seed_folder(folder, seed) for seed in seeds) if holds_run(run)), None)
    if used is not None and not resume:
        raise UsageError(f"{used} holds a run already: add --resume or --overwrite, or choose another --out")


def refuse_other_folder(folder: Path) -> None:
    """Keep `--overwrite` away from anything but a run folder, or one that is not there or empty.

    Raises:
        UsageError: it is something else.
    """
    if not is_replaceable(folder):
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
