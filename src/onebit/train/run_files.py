"""The files that `fit` writes into a run folder. Without a folder nothing is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onebit.common.files import read_json, write_atomic
from onebit.data import DATASETS, Dataset
from onebit.errors import CheckpointError, UsageError
from onebit.train.checkpoint import load_checkpoint, save_checkpoint
from onebit.train.history import DATA_FILE, MOST_RESULT, RESULT_FILE, EpochLog
from onebit.train.job import Job
from onebit.train.weights import save_weights


def stored_data_folder(run: Path) -> Path | None:
    """Where the data of a run were; None if unknown."""
    directory = _stored_data(run).get("directory")
    return None if directory is None else Path(directory)


def _stored_data(run: Path) -> dict[str, str]:
    """The fields of data.json."""
    try:
        return {key: str(value) for key, value in read_json(run / DATA_FILE, largest=MOST_RESULT).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def changed_data(folder: Path, data: Dataset) -> bool:
    """Whether data differ from the stored digests of a run."""
    stored, now = _stored_data(folder), {"digest": data.digest, "test": data.test_digest}
    return any(stored.get(part, digest) != digest for part, digest in now.items())


def is_of_other_files(folder: Path, data: Dataset) -> bool:
    """Whether the data files differ from those of a run; the splits may differ."""
    stored = _stored_data(folder).get("files")
    return stored != data.files_digest if stored and data.files_digest else changed_data(folder, data)


def refuse_other_data(folder: Path, data: Dataset) -> None:
    """Raise CheckpointError if the run in a folder, finished or not, was trained on other data."""
    trained = any((folder / name).exists() for name in ("last.ckpt", RESULT_FILE))
    if trained and changed_data(folder, data):
        raise CheckpointError(f"{folder}: was trained on other images or labels than these")


def last_checkpoint(job: Job) -> Path | None:
    """The last checkpoint, if there is one."""
    path = None if job.folder is None else job.folder / "last.ckpt"
    return path if path is not None and path.exists() else None


def restore(job: Job) -> None:
    """Restore the last checkpoint, if there is one; UsageError if rank 0 does not see it."""
    seen = job.ranks.gather(last_checkpoint(job))
    if seen[0] is None and any(seen):  # starting again would overwrite it
        raise UsageError(f"rank 0 does not see the checkpoint in {job.folder}, which is on another machine")
    if seen[0] is not None:
        load_checkpoint(seen[0], job)


def _write(job: Job, name: str, text: str) -> None:
    if job.folder is not None and job.ranks.writes:
        write_atomic(job.folder / name, text.encode())


def write_data_file(job: Job) -> None:
    """Write data.json, for a user's data."""
    data = job.data.dataset
    if data is not None and data.directory and (data.name not in DATASETS or DATASETS[data.name].classes is None):
        stored = {"directory": data.directory, "digest": data.digest, "test": data.test_digest}
        stored |= {"files": data.files_digest} if data.files_digest else {}
        _write(job, DATA_FILE, json.dumps(stored) + "\n")


def is_of_epoch(facts: Mapping[str, Any], row: EpochLog) -> bool:
    """Whether the facts in best.safetensors are those of an epoch."""
    return (facts.get("epoch"), facts.get("validation_error")) == (row.epoch, row.validation_error)


def write_rows(job: Job) -> None:
    """Write metrics.jsonl."""
    _write(job, "metrics.jsonl", job.history.to_jsonl())


def write_epoch(job: Job) -> None:
    """Write last.ckpt and metrics.jsonl; all ranks wait for them."""
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
        save_weights(job.folder / f"{name}.safetensors", job.model, {**(job.facts or known), **facts})
