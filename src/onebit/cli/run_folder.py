"""The run folder that a command line of `onebit train` names, and whether it may be used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onebit.errors import UsageError
from onebit.nets import net_path
from onebit.runs.folders import is_replaceable, seed_folder, seed_folders
from onebit.train.history import holds_run, refuse_used


def refuse_used_folder(folder: Path, seeds: Sequence[int] | None, *, resume: bool) -> None:
    """Raise UsageError if the folder holds another kind of run (one, or several seeds), or a run that is not resumed.

    Args:
        seeds: the seeds to train; None for one run in the folder itself.
    """
    if seeds is None and seed_folders(folder):
        raise UsageError(f"{folder} holds the runs of several seeds: add --seeds, or name one of them")
    if seeds is not None and holds_run(folder):
        raise UsageError(f"{folder} holds a single run: leave --seeds out, or choose another --out")
    for place in [folder] if seeds is None else [seed_folder(folder, seed) for seed in seeds]:
        refuse_used(place, resume=resume)


def refuse_overwriting(folder: Path, read: Mapping[str, str | None]) -> None:
    """Raise UsageError if `--overwrite` would replace other files than a run, or weights that the training reads.

    Args:
        read: flag -> the run folder, weight file or net that it names.
    """
    if not is_replaceable(folder):
        raise UsageError(f"--overwrite replaces run folders only, {folder} is not one")
    replaced = Path(os.path.realpath(folder))
    for flag, path in read.items():
        if path and Path(os.path.realpath(net_path(path))).is_relative_to(replaced):
            raise UsageError(f"--overwrite replaces {folder}, which --{flag} {path} reads")
