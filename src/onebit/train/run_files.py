"""The files that `fit` writes into a run folder. Without a folder nothing is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onebit.common.files import write_atomic
from onebit.data import DATASETS
from onebit.errors import UsageError
from onebit.train.checkpoint import load_checkpoint, save_checkpoint
from onebit.train.history import DATA_FILE, EpochLog
from onebit.train.job import Job
from onebit.train.weights import save_weights


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
