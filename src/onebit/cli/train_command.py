"""The command line of `onebit train`, and the recipe that it requests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onebit.cli.seeds import parse_seeds
from onebit.common.custom_names import is_custom
from onebit.common.fields import Count, read
from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.recipe import Recipe, recipe_path
from onebit.recipe.flags import OPTIONAL, SWITCH, VALUE, read_words
from onebit.recipe.request import request_recipe
from onebit.recipe.translations import binarynet, translate
from onebit.runs.folder import RunFolder
from onebit.train.lock import LOCK_FILE, lock_folder

TRACKERS = ("tensorboard", "wandb")
OPTIONS = {
    "method": (VALUE, "NAME", "quantizers, optimizer, activation, initial weights and loss (onebit list methods)"),
    "task": (VALUE, "NAME", "permuted-mnist: continual learning of several tasks (docs/continual.md); image: one task"),
    "out": (VALUE, "DIR", "run folder (default: runs/NAME, or runs/NAME-2 and so on if that holds a run)"),
    "resume": (OPTIONAL, "[RUN]", "continue bit-identically from the last checkpoint of RUN, or of the run folder"),
    "overwrite": (SWITCH, "", "replace the run in the run folder once the new one has a checkpoint"),
    "seeds": (VALUE, "0-4", "train into DIR/seed-N for each seed, report mean and standard deviation; also 0,3,7"),
    "wandb": (SWITCH, "", "also log to Weights & Biases (WANDB_MODE=offline: into the run folder)"),
    "tensorboard": (SWITCH, "", "also log to RUN/tensorboard"),
    "data": (VALUE, "DIR", "folder of data sets or images, or FILE.npz of arrays"),
    "print-freq": (VALUE, "N", "print loss and accuracy every N steps"),
    "start-epoch": (VALUE, "N", "accepted with --resume, which starts at the epoch of the checkpoint"),
    "print-config": (SWITCH, "", "print the complete recipe and exit"),
    "explain": (SWITCH, "", "print each setting with where it comes from, and exit"),
    "json": (SWITCH, "", "print exactly one JSON object: recipe, dataset, seed, epochs, test, seconds, ..."),
    "help": (SWITCH, "", "print this text and exit"),
}
"""Flag that is no field of a recipe -> (what it takes, its metavar, its help)."""
TAKES = {name: takes for name, (takes, _, _) in OPTIONS.items()}


@dataclass(frozen=True)
class TrainCommand:
    """One command line.

    Args:
        recipe: name or file of a recipe.
        flags: fields of the recipe -> values.
        folder: of `--out` or `--resume`.
        resumed: whether to take the recipe of the folder.
        others: see `OPTIONS`.
    """

    recipe: str | None = None
    flags: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    resumed: bool = False
    resume: bool = False
    method: str | None = None
    task: str | None = None
    data: str | None = None
    seeds: list[int] | None = None
    print_freq: int | None = None
    trackers: tuple[str, ...] = ()
    overwrite: bool = False
    json: bool = False
    print_config: bool = False
    explain: bool = False
    help: bool = False

    @property
    def names_custom_model(self) -> bool:
        """Whether `--model` names a custom model."""
        return is_custom(self.flags.get("model.name", ""))

    @property
    def names_training(self) -> bool:
        """Whether the command names what to train or to print."""
        prints = self.print_config or self.explain
        return any((self.recipe, self.method, self.task, self.resumed, prints, self.flags))


def translated(words: Sequence[str]) -> list[str] | None:
    """The `onebit` command line for the words after `onebit train`, if they are those of another repository."""
    options = TAKES | dict.fromkeys(binarynet.FLAGS, VALUE)
    return translate(read_words(words, options=options, short={**binarynet.SHORT, "-h": "help"}))


def read_command(words: Sequence[str]) -> TrainCommand:
    """Read the words after `onebit train`; UsageError for wrong ones."""
    recipe: str | None = None
    verb_options: dict[str, str | None] = {}
    settings: dict[str, str] = {}
    for name, value, _ in read_words(words, options=TAKES, short={"-h": "help"}):
        if name in OPTIONS:
            if not value and TAKES[name] == VALUE:  # an unset "$DIR"
                raise UsageError(f"--{name} needs a value")
            verb_options[name] = value
        elif name:
            settings[name] = str(value)
        elif not value or recipe is not None:
            raise UsageError(f"unexpected {value!r}: expected one recipe")
        else:
            recipe = value
    resume = verb_options.get("resume", "") != ""  # some scripts pass --resume ''
    if resume and "overwrite" in verb_options:
        raise UsageError("--overwrite and --resume exclude each other")
    if verb_options.get("start-epoch", "0") != "0" and not resume:
        raise UsageError("--start-epoch requires --resume RUN")
    named = [Path(path) for path in (verb_options.get("out"), verb_options.get("resume")) if path]
    folders = [path.parent if path.name == "last.ckpt" else path for path in named]
    if len(set(map(os.path.realpath, folders))) > 1:
        raise UsageError(f"several run folders: {', '.join(map(str, folders))}")
    options: dict[str, Any] = {name: verb_options.get(name) for name in ("method", "task", "data")}
    switches = ("overwrite", "json", "print-config", "explain", "help")
    options |= {name.replace("-", "_"): name in verb_options for name in switches}
    only_out = resume and "out" in verb_options and not (recipe or settings or options["method"] or options["task"])
    return TrainCommand(
        recipe,
        settings,
        **options,
        folder=folders[0] if folders else None,
        resumed=bool(verb_options.get("resume")) or only_out,
        resume=resume,
        seeds=parse_seeds(verb_options["seeds"] or "") if "seeds" in verb_options else None,
        print_freq=read(verb_options.get("print-freq"), Count | None, name="--print-freq"),
        trackers=tuple(name for name in TRACKERS if name in verb_options),
    )


def train_request(command: TrainCommand) -> Recipe:
    """The recipe of a command; errors: see `request_recipe` and `recipe_path`."""
    return request_recipe(command.flags, recipe_source(command), method=command.method, task=command.task)


def recipe_source(command: TrainCommand) -> Path | None:
    """The recipe file that a command names, if it does."""
    if (dataset := command.flags.get("dataset")) is not None:
        from onebit.data import DATASETS

        resolve(DATASETS, dataset, kind="data set")
    source = recipe_path(command.recipe) if command.recipe else None
    if source is None and command.resumed and command.folder is not None:
        parts = (command.folder, *RunFolder(command.folder).seeds())
        source = next((path for part in parts if (path := part / "recipe.yaml").is_file()), None)
        if source is None:
            begun = (command.folder / LOCK_FILE).exists()
            with lock_folder(command.folder if begun else None):  # refused if another process has it
                raise UsageError(f"--resume {command.folder}: no run there (it has no recipe.yaml)")
    return source
