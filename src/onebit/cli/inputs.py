"""A trained net and its data, as several verbs open them."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from onebit.cli.output import download_progress, say
from onebit.cli.parsing import thread_number
from onebit.errors import UsageError
from onebit.nets import is_packed

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
    return open_run(path, recipe=args.recipe, model=named_model(args), quantizers=args.quantizers, dataset=args.dataset)


def open_net(args: Namespace) -> Run | PackedNet:
    """The packed net, run folder or weight file `args.run`."""
    if not is_packed(args.run):
        return open_trained(args, args.run)
    from onebit.packed import load

    return load(args.run)


def load_data(trained: Run | PackedNet, args: Namespace) -> Dataset:
    """Load and announce the data of a run, or of the packed net `args.run`, from `--data`.

    `--dataset` names others than those of the run (`load_run_data`) or of the certificate.
    """
    from onebit.packed import PackedNet

    with download_progress() as fetched:
        if isinstance(trained, PackedNet):
            from onebit.evaluation.packed_nets import load_packed_data

            name = args.dataset or (trained.certificate.dataset if trained.certificate else None)
            if name is None:
                raise UsageError(f"{args.run} has no certificate that names its data set: add --dataset NAME")
            data = load_packed_data(trained, name, directory=args.data, progress=fetched, source=args.run)
        else:
            from onebit.runs.opening import load_run_data

            data = load_run_data(trained, dataset=args.dataset, directory=args.data, progress=fetched)
    say(f"{data.name} from {data.directory or 'memory'}")
    if data.note:
        say(f"note: {data.note}")
    return data


def data_facts(data: Dataset) -> dict[str, str]:
    """The facts about its data in the answer of a verb."""
    return {"dataset": data.name, "directory": data.directory, "note": data.note}
