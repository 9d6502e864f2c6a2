"""A trained net and its data, as several verbs open them."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from onebit.cli.output import download_progress, say
from onebit.cli.parsing import thread_number
from onebit.errors import UsageError

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.recipe import ModelRecipe
    from onebit.runs.run import Run


def set_threads() -> None:
    """Apply ONEBIT_THREADS to torch; UsageError if it is not a number of threads."""
    text = os.environ.get("ONEBIT_THREADS")
    if not text:
        return
    try:
        threads = thread_number(text)
    except ArgumentTypeError as error:
        raise UsageError(f"ONEBIT_THREADS {error}") from None
    import torch

    torch.set_num_threads(threads)


def named_model(args: Namespace) -> ModelRecipe | None:
    """The model of the user's own that `--model` and `--model.NAME` name; None without them."""
    if not args.model:
        return None
    from onebit.recipe import ModelRecipe
    from onebit.recipe.own_names import is_own, split_own

    if not is_own(args.model):
        raise UsageError(f"--model {args.model}: expected code of your own, FILE.py:Class or package.module:Class")
    split_own(args.model)
    # a file that says nothing about its net was written by `onebit.fit`: the code builds the net as it was trained
    return ModelRecipe(name=args.model, weight_quantizer=None, coding="none", arguments=args.model_arguments)


def seed_of_draws(args: Namespace, weights: str) -> int:
    """The seed of the argument --seed, 0 by default; UsageError for a seed of weights that are not drawn."""
    drawn = weights == "sample" or weights.startswith("ensemble:")
    if args.seed is not None and not drawn:
        raise UsageError(f"--seed belongs to random draws, but the weights are {weights}: leave it out")
    return args.seed or 0


def refuse_for_packed(args: Namespace, *names: str) -> None:
    """Raise UsageError for options that are about a net in torch."""
    for name in names:
        if getattr(args, name):
            raise UsageError(f"--{name} does not go with a packed net, which says itself what it is")


def open_trained(args: Namespace, *, reestimated: bool = False) -> Run:
    """The run of the argument RUN, with a note on BatchNorm of few steps if its statistics are not `reestimated`."""
    from onebit.layers import has_unsettled_statistics
    from onebit.runs.run import open_run

    set_threads()
    run = open_run(args.run, recipe=args.recipe, model=named_model(args), dataset=getattr(args, "dataset", None))
    if has_unsettled_statistics(run.model) and not reestimated:
        say(
            "note: BatchNorm was trained for few steps, which costs accuracy; finish the training (onebit train "
            "--resume RUN), which re-estimates it at its end"
        )
    return run


def load_data(run: Run, directory: str | None, *, dataset: str | None = None) -> Dataset:
    """The data of a run, with progress; see `onebit.runs.run_data.load_run_data`."""
    from onebit.runs.run_data import load_run_data

    with download_progress() as fetched:
        return load_run_data(run, dataset=dataset, directory=directory, progress=fetched)


def load_noted_data(run: Run, directory: str | None, *, dataset: str | None = None) -> Dataset:
    """As `load_data`, for verbs that do not show the note of the data: say that they are not those of the training."""
    from onebit.runs.run_data import OTHER_FILES, are_other_files

    data = load_data(run, directory, dataset=dataset)
    if are_other_files(data):
        say(f"note: {OTHER_FILES}")
    return data


def note_on_draws(run: Run, weights: str) -> str:
    """A note on draws from latents that were trained for their signs alone; "" in any other test mode."""
    from onebit.evaluation.modes import parse_weights
    from onebit.layers import binary_layers

    quantizers = [layer.weight_quantizer for _, layer in binary_layers(run.model)]
    if parse_weights(weights)[0] != "sample" or all(q is not None and q.random for q in quantizers):
        return ""
    return f"{weights} draws from latents that were trained without draws: they are not probabilities of the signs"
