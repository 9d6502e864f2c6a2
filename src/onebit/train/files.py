"""The files that `fit` writes into a run folder while it trains; without a folder these functions do nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onebit.common.files import read_json, write_atomic
from onebit.data import DATASETS
from onebit.errors import UsageError
from onebit.train.checkpoint import load_checkpoint, save_checkpoint
from onebit.train.history import MOST_RESULT, PLACE_FILE
from onebit.train.job import Job
from onebit.train.weights import save_weights


def remembered_place(folder: Path) -> Path | None:
    """The place of the data of a run; None if it is not stored."""
    place = _remembered(folder, "directory")
    return None if place is None else Path(place)


def remembered_digest(folder: Path) -> str | None:
    """The digest of the data of a run, see `Dataset.digest`; None if it is not stored."""
    return _remembered(folder, "digest")


def _remembered(folder: Path, key: str) -> str | None:
    try:
        return str(read_json(folder / PLACE_FILE, largest=MOST_RESULT)[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_checkpoint(job: Job) -> Path | None:
    """The last checkpoint, if there is one."""
    path = None if job.folder is None else job.folder / "last.ckpt"
    return path if path is not None and path.exists() else None


def restore(job: Job) -> None:
    """Restore the last checkpoint, if there is one; UsageError if only another machine than the first one has it."""
    seen = job.ranks.gather(last_checkpoint(job))
    if seen[0] is None and any(seen):  # to start afresh would lose what is there
        raise UsageError(
            f"{job.folder} holds a checkpoint on another machine than that of the first process: "
            "train into a folder that all machines see"
        )
    if seen[0] is not None:
        load_checkpoint(seen[0], job)


def _write(job: Job, name: str, text: str) -> None:
    if job.folder is not None and job.ranks.writes:
        write_atomic(job.folder / name, text.encode())


def write_place(job: Job) -> None:
    """Write data.json, for data that are the user's own."""
    data = job.data
    if data.directory and (data.name not in DATASETS or DATASETS[data.name].classes is None):
        _write(job, PLACE_FILE, json.dumps({"directory": data.directory, "digest": data.digest}) + "\n")


def write_rows(job: Job) -> None:
    """Write metrics.jsonl."""
    _write(job, "metrics.jsonl", job.history.to_jsonl())


def write_epoch(job: Job) -> None:
    """Write last.ckpt and metrics.jsonl; all ranks continue when the files are there."""
    if job.folder is not None:
        save_checkpoint(job.folder / "last.ckpt", job)
        write_rows(job)
        job.ranks.wait()


def write_weights(job: Job, name: str, **facts: Any) -> None:
    """Write NAME.safetensors."""
    if job.folder is not None and job.ranks.writes:
        data = job.data
        found = {"dataset": data.name, "input_shape": data.input_shape, "classes": data.classes}
        known = {key: value for key, value in found.items() if value}
        save_weights(job.folder / f"{name}.safetensors", job.model, {**(job.output.facts or known), **facts})
