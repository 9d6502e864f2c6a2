"""The words of `onebit train`, read once, and the recipe that they name: everything else works on values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onebit.cli.run_folder import stored_recipe
from onebit.cli.seeds import parse_seeds
from onebit.common.fields import Count, NotNegativeInt, read
from onebit.common.tables import resolve
from onebit.errors import UnknownNameError, UsageError
from onebit.recipe import recipe_path
from onebit.recipe.flags import OPTIONAL, SWITCH, VALUE, read_words
from onebit.recipe.own_names import is_own, split_own
from onebit.recipe.request import RecipeRequest, request_recipe
from onebit.recipe.translations import binarynet, translate

TRACKERS = ("tensorboard", "wandb")
OPTIONS = {
    **dict.fromkeys((*TRACKERS, "overwrite", "json", "print-config", "help"), SWITCH),
    **dict.fromkeys(("out", "data", "method", "task", "seeds", "start-epoch", "print-freq"), VALUE),
    "resume": OPTIONAL,
}
"""Flags of the verb itself, beside the fields of a recipe."""


@dataclass(frozen=True)
class TrainCommand:
    """One command line.

    Args:
        recipe: name or file of a recipe.
        flags: fields of the recipe -> values.
        method, task, out, data: options with a value; seeds: those of `--seeds`.
        resume: whether to go on with a run; resumed: the run, where `--resume` names one.
        start_epoch: number of epochs that a resumed training must have done.
        print_freq: steps between two lines of progress.
        trackers: names of `TRACKERS`.
        overwrite, json, print_config, help: switches.
    """

    recipe: str | None = None
    flags: dict[str, str] = field(default_factory=dict)
    method: str | None = None
    task: str | None = None
    out: str | None = None
    data: str | None = None
    seeds: list[int] | None = None
    resume: bool = False
    resumed: str | None = None
    start_epoch: int | None = None
    print_freq: int | None = None
    trackers: tuple[str, ...] = ()
    overwrite: bool = False
    json: bool = False
    print_config: bool = False
    help: bool = False

    @property
    def names_own_model(self) -> bool:
        """Whether `--model` names code of the user's own."""
        return is_own(self.flags.get("model.name", ""))

    @property
    def names_training(self) -> bool:
        """Whether the command names what to train or to print."""
        return any((self.recipe, self.method, self.task, self.resumed, self.print_config, self.flags))


def translated(words: Sequence[str]) -> list[str] | None:
    """The words after `onebit` that the words after `onebit train` mean, if they are those of another repository."""
    options = OPTIONS | dict.fromkeys(binarynet.FLAGS, VALUE)
    return translate(read_words(words, options=options, short={**binarynet.SHORT, "-h": "help"}))


def read_command(words: Sequence[str]) -> TrainCommand:
    """Read the words after `onebit train`; UsageError for words that cannot be understood."""
    recipe: str | None = None
    own: dict[str, str | None] = {}
    settings: dict[str, str] = {}
    for name, value, _ in read_words(words, options=OPTIONS, short={"-h": "help"}):
        if name in OPTIONS:
            own[name] = _own_value(name, value, repeated=name in own)
        elif name:
            settings[name] = str(value)
        elif not value or recipe is not None:
            raise UsageError(f"unexpected {value!r}: expected one recipe")
        else:
            recipe = value
    resume, resumed = own.get("resume", "") != "", own.get("resume") or None  # scripts have --resume '' for none
    if resume and own.get("out") and not (recipe or settings or own.get("method") or own.get("task")):
        resumed = resumed or own["out"]  # --resume --out DIR
    if "seeds" in own and "seed" in settings:
        raise UsageError(f"--seeds {own['seeds']} and --seed: leave one of them out")
    if resume and "overwrite" in own:
        raise UsageError("--overwrite replaces a run, --resume goes on with it: leave one of them out")
    if own.get("start-epoch", "0") != "0" and not resume:
        raise UsageError("--start-epoch requires --resume RUN")
    options: dict[str, Any] = {name: own.get(name) for name in ("method", "task", "out", "data")}
    options |= {name.replace("-", "_"): name in own for name in ("overwrite", "json", "print-config", "help")}
    return TrainCommand(
        recipe,
        settings,
        **options,
        seeds=parse_seeds(own["seeds"] or "") if "seeds" in own else None,
        resume=resume,
        resumed=resumed,
        start_epoch=read(own.get("start-epoch"), NotNegativeInt | None, name="--start-epoch"),
        print_freq=read(own.get("print-freq"), Count | None, name="--print-freq"),
        trackers=tuple(name for name in TRACKERS if name in own),
    )


def train_request(command: TrainCommand) -> RecipeRequest:
    """The recipe of a command, and notes on it; errors: see `request_recipe`, `recipe_path` and `stored_recipe`."""
    if (dataset := command.flags.get("dataset")) is not None:
        from onebit.data import DATASETS

        if dataset not in DATASETS and Path(dataset).is_dir():
            raise UnknownNameError(f"unknown data set {dataset!r}; the folder of that name is --dataset ./{dataset}")
        resolve(DATASETS, dataset, kind="data set")
    if command.names_own_model:
        split_own(command.flags["model.name"])
    source = recipe_path(command.recipe) if command.recipe else None
    if source is None and command.resumed:
        source = stored_recipe(command.resumed)
    return request_recipe(command.flags, source, method=command.method, task=command.task)


def _own_value(name: str, value: str | None, *, repeated: bool) -> str | None:
    if repeated and OPTIONS[name] != SWITCH:
        raise UsageError(f"--{name} was given more than once")
    if not value and OPTIONS[name] == VALUE:  # "$DIR" where nothing set it
        raise UsageError(f"--{name} needs a value")
    return value
