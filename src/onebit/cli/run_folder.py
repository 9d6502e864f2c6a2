"""The run folder that a command line of `onebit train` names, and whether it may be used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onebit.errors import UsageError
from onebit.nets import net_names, net_path
from onebit.recipe import recipe_names
from onebit.runs.folders import is_replaceable, refuse_busy, seed_folder, seed_folders
from onebit.train.history import PLACE_FILE, holds_run, refuse_used


def named_folder(*, out: str | None, resumed: str | None, saved: Path | None) -> Path | None:
    """The one folder that --out, --resume and the classic --results_dir and --save name; UsageError if they differ."""
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


def begun_files(folder: Path) -> list[Path]:
    """What a training writes into a run folder before its first step."""
    return [folder / name for name in ("recipe.yaml", "log.txt", "metrics.jsonl", PLACE_FILE)]


def resumed_folder(resumed: str) -> Path:
    """The run folder that `--resume RUN` means: RUN, or the folder of a last.ckpt; UsageError for another file."""
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
    """The recipe in a run folder, or in that of the first of several seeds; UsageError if there is none."""
    folder = resumed_folder(resumed)
    found = [path for path in (folder, *seed_folders(folder)) if (path / "recipe.yaml").is_file()]
    if not found:
        refuse_busy(folder)
        first = f"; the recipe comes first: onebit train {resumed} --resume" if resumed in recipe_names() else ""
        raise UsageError(f"--resume {resumed}: no run there (it has no recipe.yaml){first}")
    return found[0] / "recipe.yaml"


def refuse_used_folder(folder: Path, seeds: Sequence[int] | None, *, resume: bool) -> None:
    """Raise UsageError if the folder holds another kind of run (one, or several seeds), or a run that is not resumed.

    Args:
        seeds: the seeds to train; None for one run in the folder itself.
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


def refuse_name_of_net(folder: Path, read: Mapping[str, str | None]) -> None:
    """Raise UsageError if the run folder would have the name of a net that the training reads: which is meant then?

    Args:
        read: flag -> the run folder, weight file or net that it names.
    """
    for flag, name in read.items():
        if name in net_names() and os.path.realpath(folder) == os.path.realpath(str(name)):
            raise UsageError(
                f"{folder} as the run folder would have the name of the net that --{flag} reads: choose another --out"
            )


def refuse_overwriting(folder: Path, read: Mapping[str, str | None]) -> None:
    """Raise UsageError if `--overwrite` would replace other files than a run, or weights that the training reads.

    Args:
        read: flag -> the run folder, weight file or net that it names.
    """
    if not is_replaceable(folder):
        raise UsageError(f"--overwrite replaces run folders only, and {folder} is not one: choose another --out")
    replaced = Path(os.path.realpath(folder))
    for flag, path in read.items():
        if path and Path(os.path.realpath(net_path(path))).is_relative_to(replaced):
            raise UsageError(f"--overwrite replaces {folder}, which --{flag} {path} reads: choose another --out")
