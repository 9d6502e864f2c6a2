"""The words of `onebit train`, read once, and the recipe that they name: everything else works on values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit.cli.run_folder import stored_recipe
from onebit.cli.seeds import parse_seeds
from onebit.common.tables import resolve
from onebit.errors import UnknownNameError, UsageError
from onebit.recipe import recipe_path
from onebit.recipe.flags import OPTIONAL, SWITCH, VALUE, read_words
from onebit.recipe.own_names import is_own, split_own
from onebit.recipe.request import RecipeRequest, request_recipe
from onebit.recipe.translations import binarynet
from onebit.recipe.translations.binarynet import BinaryNetFlags

TRACKERS = ("tensorboard", "wandb")
OPTIONS = {
    **dict.fromkeys((*TRACKERS, "overwrite", "json", "print-config", "help"), SWITCH),
    **dict.fromkeys(("out", "data", "method", "task", "seeds"), VALUE),
    "resume": OPTIONAL,
}
"""Flags of the verb itself; the fields of a recipe and the flags of BinaryNet.pytorch are beside them."""
WANDB_WORD = "wandb_on"
"""Word of `onebit train config.json wandb_on`, as in the repository of these files."""


@dataclass(frozen=True)
class TrainCommand:
    """One command line.

    Args:
        recipe: name or file of a recipe.
        flags: settings of the recipe, and what else flags of BinaryNet.pytorch mean.
        method, task, out, data: options with a value; seeds: those of `--seeds`.
        resume: whether to go on with a run; resumed: the run, where `--resume` names one.
        trackers: names of `TRACKERS`.
        overwrite, json, print_config, help: switches.
    """

    recipe: str | None
    flags: BinaryNetFlags
    method: str | None = None
    task: str | None = None
    out: str | None = None
    data: str | None = None
    seeds: list[int] | None = None
    resume: bool = False
    resumed: str | None = None
    trackers: tuple[str, ...] = ()
    overwrite: bool = False
    json: bool = False
    print_config: bool = False
    help: bool = False

    @property
    def names_own_model(self) -> bool:
        """Whether `--model` names code of the user's own."""
        return is_own(str(self.flags.settings.get("model.name", "")))

    @property
    def names_training(self) -> bool:
        """Whether the command names what to train, to print or to evaluate."""
        named = (self.recipe, self.method, self.task, self.resumed, self.print_config)
        return any(named) or bool(self.flags.evaluate or self.flags.settings)


def read_command(words: Sequence[str]) -> TrainCommand:
    """Read the words after `onebit train`; UsageError for words that cannot be understood."""
    options = OPTIONS | dict.fromkeys(binarynet.FLAGS, VALUE)
    found = read_words(words, options=options, short={**binarynet.SHORT, "-h": "help"})
    recipe: str | None = None
    own: dict[str, str | None] = {}
    foreign: dict[str, str] = {}
    settings: dict[str, str] = {}
    for i, (name, value, _) in enumerate(found):
        if value == WANDB_WORD and (name == "resume" or (i and not name)):
            own |= {"wandb": None} | ({"resume": None} if name else {})
        elif not (name or value or recipe):
            raise UsageError("RECIPE needs a value")
        elif not name and recipe is None:
            recipe = value
        elif not name:
            raise UsageError(f"unexpected {value!r}: {recipe!r} is the recipe of this command")
        elif name in OPTIONS:
            own[name] = _own_value(name, value, repeated=name in own)
        elif name in binarynet.FLAGS:
            foreign[binarynet.FLAGS[name]] = str(value)
        else:
            settings[name] = str(value)
    flags = binarynet.translate(
        foreign,
        settings,
        short=any(word.typed[0][:2] in binarynet.SHORT for word in found),
        without_gpus=[typed for word in found if word.name != "gpus" for typed in word.typed],
    )
    resume, resumed = own.get("resume", "") != "", own.get("resume") or None  # scripts have --resume '' for none
    if resume and own.get("out") and not (recipe or flags.settings or own.get("method") or own.get("task")):
        resumed = resumed or own["out"]  # --resume --out DIR
    conflicts = {
        f"--data {own.get('data')} and --dataset {flags.data}": own.get("data") and flags.data,
        f"--seeds {own.get('seeds')} and --seed": own.get("seeds") and "seed" in settings,
        "--overwrite replaces a run, --resume goes on with it": resume and "overwrite" in own,
    }
    for pair, wrong in conflicts.items():
        if wrong:
            raise UsageError(f"{pair}: leave one of them out")
    if flags.start_epoch and not resume:
        raise UsageError(f"--start-epoch {flags.start_epoch}: a training goes on from a checkpoint: add --resume RUN")
    own_options: dict[str, Any] = {name: own.get(name) for name in ("method", "task", "out")}
    own_options |= {name.replace("-", "_"): name in own for name in ("overwrite", "json", "print-config", "help")}
    return TrainCommand(
        recipe,
        flags,
        **own_options,
        data=own.get("data") or flags.data,
        seeds=parse_seeds(own["seeds"] or "") if "seeds" in own else None,
        resume=resume,
        resumed=resumed,
        trackers=tuple(name for name in TRACKERS if name in own),
    )


def train_request(command: TrainCommand) -> RecipeRequest:
    """The recipe of a command, and notes on it; errors: see `request_recipe`, `recipe_path` and `stored_recipe`."""
    if (dataset := command.flags.settings.get("dataset")) is not None:
        from onebit.data import DATASETS

        if dataset not in DATASETS and Path(dataset).is_dir():
            raise UnknownNameError(f"unknown data set {dataset!r}; the folder of that name is --dataset ./{dataset}")
        resolve(DATASETS, dataset, kind="data set")
    if command.names_own_model:
        split_own(command.flags.settings["model.name"])
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
