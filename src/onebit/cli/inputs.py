"""A trained net and its data, as several verbs open them."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from onebit.cli.output import download_progress
from onebit.cli.parsing import thread_number
from onebit.errors import UsageError

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.runs.run import Run


def set_threads() -> None:
    """Apply ONEBIT_THREADS to torch.

    Raises:
        UsageError: not a number of threads.
    """
    text = os.environ.get("ONEBIT_THREADS")
    if not text:
        return
    try:
        threads = thread_number(text)
    except ArgumentTypeError as error:
        raise UsageError(f"ONEBIT_THREADS {error}") from None
    import torch

    torch.set_num_threads(threads)


def open_trained(args: Namespace, *, to_pack: bool = False) -> Run:
    """The run of the argument RUN.

    Args:
        to_pack: refuse a net that cannot be packed because its images are whitened.
    """
    from onebit.runs.run import open_run
    from onebit.verification.proof import refuse_whitened

    set_threads()
    run = open_run(args.run, recipe=args.recipe)
    if to_pack:
        refuse_whitened(run)
    return run


def load_data(run: Run, directory: str | None, *, dataset: str | None = None) -> Dataset:
    """The data of a run, with progress; see `onebit.runs.run_data.load_run_data`."""
    from onebit.runs.run_data import load_run_data

    with download_progress() as fetched:
        return load_run_data(run, dataset=dataset, directory=directory, progress=fetched)
