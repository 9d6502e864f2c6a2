"""`onebit train`."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

from onebit.cli.output import answer, answer_json, download_progress, percent, progress, set_threads
from onebit.cli.parsing import option_value
from onebit.errors import UsageError
from onebit.recipe import (
    Recipe,
    build_recipe,
    make_parser,
    merge,
    methods,
    read_settings,
    recipe_names,
    recipe_path,
)
from onebit.tables import resolve
from onebit.train.history import refuse_used

USAGE = """usage: onebit train [RECIPE|FILE] [--FIELD VALUE ...] [--out DIR] [--resume [RUN]]

Train a recipe into a run folder. Without a recipe a base recipe is filled in.

  RECIPE|FILE       a recipe that ships (onebit list recipes), or a YAML or JSON file
  --method NAME     set quantizers and optimizer of a method (onebit list methods)
  --out DIR         run folder (default: runs/NAME)
  --resume [RUN]    go on from the last checkpoint, bit-identically; of RUN, or of the run folder
  --data DIR        folder of data sets, before ONEBIT_DATA and the cache
  --print-config    print the complete recipe and leave
  --json            print exactly one JSON object: recipe, dataset, seed, epochs, test, seconds, parameters, ...

Every field of the recipe is a flag:
"""


def main(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        parser = make_parser()
        parser.usage = "SUPPRESSED"
        text = parser.format_help()
        answer(USAGE + text[text.index("\n\n") + 2 :] if "\n\n" in text else USAGE + text)
        return 0
    as_json, rest = "--json" in argv, [a for a in argv if a != "--json"]
    print_config, rest = "--print-config" in rest, [a for a in rest if a != "--print-config"]
    resume, resumed, rest = option_value(rest, "resume", optional=True)
    _, out, rest = option_value(rest, "out")
    _, data_folder, rest = option_value(rest, "data")
    _, method, rest = option_value(rest, "method")
    recipe = _recipe(rest, method, resumed)
    if print_config:
        if as_json:
            answer_json(dataclasses.asdict(recipe))
        else:
            answer(recipe.to_yaml().rstrip())
        return 0
    if out and resumed and Path(out).resolve() != _folder_of(resumed).resolve():
        raise UsageError(f"--resume {resumed} goes on in that folder, --out {out} names another: leave one of them out")
    folder = Path(out or (_folder_of(resumed) if resumed else None) or Path("runs") / recipe.name)
    refuse_used(folder, resume=resume)
    return _train(recipe, folder, data_folder=data_folder, resume=resume, as_json=as_json)


def _folder_of(resumed: str) -> Path:
    """The run folder that `--resume RUN` means: the folder itself, or that of its last.ckpt.

    Raises:
        UsageError: another checkpoint.
    """
    path = Path(resumed)
    if path.suffix != ".ckpt":
        return path
    if path.name != "last.ckpt" or not path.is_file():
        raise UsageError(f"--resume {resumed}: no such checkpoint; name a run folder or its last.ckpt")
    return path.parent


def _recipe(argv: list[str], method: str | None, resumed: str | None) -> Recipe:
    """Recipe file, then the method, then the flags."""
    settings: dict[str, Any] = {}
    flags = argv
    if argv and not argv[0].startswith("-"):
        settings, flags = read_settings(recipe_path(argv[0])), argv[1:]
    elif resumed is not None:
        stored = _folder_of(resumed) / "recipe.yaml"
        if not stored.is_file():
            first = f"; the recipe comes first: onebit train {resumed} --resume" if resumed in recipe_names() else ""
            raise UsageError(f"--resume {resumed}: no run there (it has no recipe.yaml){first}")
        settings = read_settings(stored)
    chosen = build_recipe(settings)
    if method is not None:
        settings = merge(settings, resolve(methods(), method, kind="method"))
        settings.setdefault("name", method)
    recipe = build_recipe(settings, flags)
    if any(name != "seed" for name, _, _ in recipe.changed_from(chosen)):
        # what was measured with the recipe as it stands says nothing about this training
        recipe = dataclasses.replace(recipe, measured="")
    return recipe


def _train(recipe: Recipe, folder: Path, *, data_folder: str | None, resume: bool, as_json: bool) -> int:
    from onebit.memory import keep_freed_memory
    from onebit.train.run import load_recipe_data, start_folder, train_run

    keep_freed_memory()
    with download_progress() as fetched:
        data = load_recipe_data(recipe, directory=data_folder, progress=fetched)
    recipe = dataclasses.replace(recipe, validation=len(data.validation))  # null becomes the number it stands for
    set_threads()
    going_on = start_folder(folder, recipe, resume=resume)
    with progress(recipe.name, "steps") as bar, (folder / "log.txt").open("a", encoding="utf-8") as log:

        def note(text: str) -> None:
            bar.print(text)
            log.write(text + "\n")
            log.flush()

        if resume and not going_on:
            note(f"{folder} holds no checkpoint yet: starting afresh")
        note(f"{recipe.name}: {recipe.summary or 'no summary'}; {data.name} from {data.directory or 'memory'}")
        note(
            f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test images"
            + (f" ({data.note})" if data.note else "")
        )
        note(_precision_line(recipe))
        started = time.perf_counter()
        try:
            result = train_run(
                recipe,
                data,
                folder,
                resume=resume,
                on_step=bar.update,
                on_epoch=lambda row: note(str(row)),
            )
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                log.write("interrupted\n")
            raise KeyboardInterrupt(f"interrupted; go on with: onebit train --resume {folder}") from None
        lines = [
            f"test accuracy {percent(score['accuracy'])} "
            f"({score['correct']:,} of {score['count']:,}) with {mode} weights"
            + ("" if score["bn"] == "trained" else ", BatchNorm re-estimated")
            for mode, score in result["test"].items()
        ]
        for line in lines:
            log.write(line + "\n")
    if as_json:
        answer_json(result)
    else:
        for line in lines:
            answer(line)
        chosen = f"epoch {result['chosen_epoch']}, chosen by {result['chosen_by']}"
        answer(f"{chosen}; seed {recipe.seed}; {time.perf_counter() - started:.1f} s; run folder {folder}")
    return 0


def _precision_line(recipe: Recipe) -> str:
    import torch

    from onebit.precision import resolve_precision
    from onebit.train.build import resolve_device

    device = resolve_device(recipe.device)
    precision = resolve_precision(recipe.precision, device)
    why = " (the device multiplies it natively; ±1 weights are exact in it)" if precision == "bf16" else ""
    threads = recipe.threads or torch.get_num_threads()
    return f"{precision} products{why if recipe.precision == 'auto' else ''} on {device}, {threads} threads"
