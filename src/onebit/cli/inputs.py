"""A trained net and its data, as several verbs open them."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from onebit.cli.output import download_progress, say
from onebit.cli.parsing import thread_number
from onebit.errors import UsageError

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.models.settings import Custom
    from onebit.packed import PackedNet
    from onebit.runs.opening import Run


def set_threads() -> None:
    """Apply ONEBIT_THREADS to torch."""
    if threads := os.environ.get("ONEBIT_THREADS"):
        import torch

        torch.set_num_threads(thread_number(threads))


def named_model(args: Namespace) -> Custom | None:
    """The custom model of `--model` and its arguments `--model.NAME`; None without them."""
    if not args.model:
        return None
    from onebit.common.custom_names import split_custom
    from onebit.models.settings import Custom

    split_custom(args.model)
    # `onebit.fit` stores no recipe: its nets are built by the code alone
    return Custom(name=args.model, weight_quantizer=None, coding="none", arguments=args.model_arguments)


def open_trained(args: Namespace, path: str) -> Run:
    """A run folder or weight file, with the recipe and the code that the arguments name."""
    from onebit.runs.opening import open_run

    set_threads()
    options = {"recipe": args.recipe, "dataset": getattr(args, "dataset", None)}
    return open_run(path, model=named_model(args), quantizers=args.quantizers, **options)


def load_data(run: Run, args: Namespace) -> Dataset:
    """Load and announce the data of a run, or those of `--data` and `--dataset`; see `load_run_data`."""
    from onebit.runs.opening import load_run_data

    with download_progress() as fetched:
        options = {"dataset": getattr(args, "dataset", None), "directory": args.data}
        return _announced(load_run_data(run, **options, progress=fetched))


def load_data_of_net(net: PackedNet, args: Namespace) -> Dataset:
    """Load and announce the data of the packed net `args.run`: of `--dataset`, or of its certificate."""
    from onebit.evaluation.packed_nets import load_packed_data

    name = getattr(args, "dataset", None) or (net.certificate.dataset if net.certificate else None)
    if name is None:
        raise UsageError(f"{args.run} has no certificate that names its data set: add --dataset NAME")
    with download_progress() as fetched:
        return _announced(load_packed_data(net, name, directory=args.data, progress=fetched, source=args.run))


def _announced(data: Dataset) -> Dataset:
    say(f"{data.name} from {data.directory or 'memory'}")
    if data.note:
        say(f"note: {data.note}")
    return data


def data_facts(data: Dataset) -> dict[str, str]:
    """The facts about its data in the answer of a verb."""
    return {"dataset": data.name, "directory": data.directory, "note": data.note}
