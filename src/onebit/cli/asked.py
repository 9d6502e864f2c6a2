"""What a command line of `onebit train` asks for: the recipe and the run folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from onebit.cli.classic import Classic
from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.recipe import (
    Recipe,
    build_recipe,
    changed_settings,
    default_settings,
    merge,
    method_of,
    method_settings,
    read_config,
    read_settings,
    recipe_names,
    recipe_path,
    refuse_clipping,
    refuse_long_warmup,
    refuse_unused,
    shrink_warmup,
    take_alias,
    translate_config,
    unused_settings,
    with_method,
)
from onebit.recipe.settings import LONGEST_NAME

QUANTIZERS = ("weight_quantizer", "input_quantizer")
TASKS = {"permuted-mnist": "mnist-permuted", "image": None}
"""Task -> the recipe that says how it is learned; None for the images as they are."""


@dataclass(frozen=True)
class Asked:
    """The recipe of a command line, and what was understood in another way than it was said."""

    recipe: Recipe
    notes: tuple[str, ...] = ()


def asked_recipe(classic: Classic, method: str | None, resumed: str | None, *, task: str | None = None) -> Asked:
    """Recipe file, JSON configuration or defaults, then the method in place of that of the recipe, then the flags.

    Args:
        task: a name of `TASKS`; without a file its own recipe is trained.

    Raises:
        UsageError, UnknownNameError: what is asked for cannot be understood, or would not be used.
    """
    argv = list(classic.rest)
    source: Path | None = None
    if argv and not argv[0].startswith("-"):
        source = recipe_path(argv.pop(0))
    elif resumed is not None:
        source = stored_recipe(resumed)
    recipe_of_task = None if task is None else resolve(TASKS, task, kind="task")
    learnt = None if recipe_of_task is None else recipe_path(recipe_of_task)
    meant, flags = take_alias([*classic.flags, *argv])
    given = [flag.partition("=")[0].removeprefix("--") for flag in flags]
    optimizer = _said(flags, "optimizer.name")
    config = None if source is None else read_config(source)
    notes: tuple[str, ...] = ()
    if config is not None:
        translation = translate_config(config, source=str(source), method=method, task=task)
        settings = merge(method_settings(translation.method, optimizer=optimizer), translation.settings)
        method, notes = translation.method, translation.notes
    else:
        settings = {} if source is None and learnt is None else read_settings(source or learnt)  # type: ignore[arg-type]
    if source is not None and learnt is not None:
        settings = merge(settings, {"continual": read_settings(learnt)["continual"], "measured": ""})
    chosen = None if source is None and learnt is None else build_recipe(settings)
    if chosen is not None:
        # the quantizers of a file that names none are those of a recipe, whichever net --model puts in its place
        settings = merge({"model": {name: getattr(chosen.model, name) for name in QUANTIZERS}}, settings)
    if chosen is None:
        meant = merge(meant, {} if method is None else method_settings(method, optimizer=optimizer))
        what = build_recipe(meant, flags)
        settings = default_settings(what, method=method, given=given)
        named = optimizer or meant.get("optimizer", {}).get("name")  # by a flag, or by the method
        if classic.of_sgd and named is None and build_recipe(settings).optimizer.name == "adam":
            flags, given = [*flags, "--optimizer.name=sgd"], [*given, "optimizer.name"]
            what = build_recipe(meant, flags)
            settings = default_settings(what, method=method, given=given)
            meaning = "trains with SGD, as in the scripts that this flag comes from; --optimizer adam keeps Adam"
            notes = (f"{classic.of_sgd[0]} without --optimizer {meaning}",)
        settings["name"] = _name(what, classic.model, method)
    elif method is not None and config is None:
        settings = with_method(chosen, method, flags=flags, optimizer=optimizer)
        # the method that was asked for counts, not the one that the alias of a model stands for
        meant = merge(meant, {"model": {key: settings["model"][key] for key in QUANTIZERS}})
    if chosen is not None and (method is not None or learnt is not None):
        # the file may set its tasks against the very method that learns them now
        others = [name for name in chosen.continual.against if name != (method or method_of(chosen))]
        settings = merge(settings, {"continual": {"against": others}})
    recipe = classic.with_momentum(build_recipe(merge(settings, meant), flags))
    if method is not None and recipe.continual.tasks and "continual.own" not in given:
        recipe = dataclasses.replace(recipe, continual=dataclasses.replace(recipe.continual, own=method))
    if chosen is not None and any(name != "seed" for name, _, _ in recipe.changed_from(chosen)):
        # what was measured with the recipe as it stands says nothing about this training
        recipe = dataclasses.replace(recipe, measured="")
    binary = method is not None and method_settings(method)["model"]["weight_quantizer"] is not None
    if binary and recipe.model.weight_quantizer is None:
        raise UsageError(f"--method {method} has binary weights, but model.weight_quantizer is null: leave one out")
    if chosen is not None and "epochs" in given and "schedule.warmup" not in given:
        full, recipe = recipe.schedule.warmup, shrink_warmup(recipe, epochs=chosen.epochs)
        if recipe.schedule.warmup < full:
            shorter = f"from {full:g} to {recipe.schedule.warmup:.3g} epochs"
            notes = (*notes, f"schedule.warmup shrinks with --epochs {recipe.epochs:g}, {shorter}")
    refuse_long_warmup(recipe)
    refuse_clipping(recipe)
    refuse_unused(recipe, given)
    if chosen is not None:
        # a file is complete, and other settings may have been laid over it: what it says in vain is told
        said = set(changed_settings(chosen)) - set(given)
        kept = [name for name in changed_settings(recipe) if name in said]
        notes = (*notes, *unused_settings(recipe, kept))
    return Asked(recipe, notes)


def _said(flags: Sequence[str], name: str) -> str | None:
    """The last value of a flag, None where it is not given."""
    value = None
    for flag, following in zip_longest(flags, flags[1:]):
        found, equals, attached = flag.partition("=")
        if found == f"--{name}":
            value = attached if equals else following
    return value


def _name(recipe: Recipe, model: str | None, method: str | None) -> str:
    """What a training without a recipe is called: data set, model and method, as they were asked for."""
    name = "-".join(filter(None, (Path(recipe.dataset).name, model or recipe.model.name, method)))
    return name[:LONGEST_NAME]


def stored_recipe(resumed: str) -> Path:
    """The recipe in a run folder, or in that of the first of several seeds.

    Raises:
        UsageError: none there.
    """
    folder = folder_of(resumed)
    stored = next(
        (path for path in (folder / "recipe.yaml", *sorted(folder.glob("seed-*/recipe.yaml"))) if path.is_file()), None
    )
    if stored is None:
        first = f"; the recipe comes first: onebit train {resumed} --resume" if resumed in recipe_names() else ""
        raise UsageError(f"--resume {resumed}: no run there (it has no recipe.yaml){first}")
    return stored


def folder_of(resumed: str) -> Path:
    """The run folder that `--resume RUN` means: the folder itself, or that of its last.ckpt.

    Raises:
        UsageError: another file.
    """
    path = Path(resumed)
    if path.name == "last.ckpt" and path.is_file():
        return path.parent
    if path.is_file():
        raise UsageError(
            f"--resume {resumed}: a training goes on from a run folder or its last.ckpt; "
            f"to start from the weights of a file: --init_from {resumed}"
        )
    if path.suffix == ".ckpt":
        raise UsageError(f"--resume {resumed}: no such checkpoint; name a run folder or its last.ckpt")
    return path


def run_folder(*, out: str | None, resumed: str | None, named: Path | None) -> Path | None:
    """The one folder that --out, --resume and the classic --results_dir and --save name.

    Raises:
        UsageError: they name different ones.
    """
    wanted = {"--out": Path(out) if out else None, "--resume": folder_of(resumed) if resumed else None}
    wanted["--results_dir and --save"] = named
    given = {flag: folder for flag, folder in wanted.items() if folder is not None}
    if len({os.path.realpath(folder) for folder in given.values()}) > 1:
        told = ", ".join(f"{flag} names {folder}" for flag, folder in given.items())
        raise UsageError(f"{told}: leave one of them out")
    return next(iter(given.values()), None)
