"""`onebit train`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.asked import asked_recipe, run_folder
from onebit.cli.classic import Classic, translate
from onebit.cli.continual import learn_tasks, task_lines
from onebit.cli.output import answer, answer_json, download_progress, say, set_threads
from onebit.cli.overwrite import free_folder, refuse_other_folder, refuse_own_weights, replacing
from onebit.cli.parsing import option_value, own_spelling, refuse_unknown_flags
from onebit.cli.scripts import refuse_script
from onebit.cli.seeds import (
    outcome_lines,
    parse_seeds,
    refuse_used_folder,
    summary_lines,
    train_seeds,
)
from onebit.cli.train_help import WHAT_TO_TYPE, train_help
from onebit.errors import UsageError
from onebit.recipe import Recipe, flag_names
from onebit.train.history import STAGE_FOLDER
from onebit.train.lock import lock_folder

TRACKER_FLAGS = ("tensorboard", "wandb")
SWITCHES = (*TRACKER_FLAGS, "overwrite", "json", "print-config", "help")
OWN_FLAGS = (*SWITCHES, "resume", "out", "data", "method", "task", "seeds")
"""Flags of the verb itself, beside the fields of a recipe. Dashes and underscores are the same."""
WANDB_WORD = "wandb_on"
"""Word of `onebit train config.json wandb_on`, as the repository of these files has it."""

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.runs.machine import Machine
    from onebit.train.history import EpochLog
    from onebit.train.ranks import Ranks


def main(argv: list[str]) -> int:
    if "WORLD_SIZE" not in os.environ:
        return _main(argv)
    from onebit.cli.processes import together

    return together(lambda ranks: _main(argv, ranks))


def _main(argv: list[str], ranks: Ranks | None = None) -> int:
    """The verb in one process, alone or under torchrun."""
    if argv:
        refuse_script(argv[0], argv[1:])
    typed = argv
    argv = [own_spelling(word, OWN_FLAGS) for word in argv]
    if "-h" in argv or "--help" in argv:
        answer(train_help())
        return 0
    wandb_word, argv = _take_wandb_word(argv)
    as_json, rest = "--json" in argv, [a for a in argv if a != "--json"]
    print_config, rest = "--print-config" in rest, [a for a in rest if a != "--print-config"]
    overwrite, rest = "--overwrite" in rest, [a for a in rest if a != "--overwrite"]
    resume, resumed, rest = option_value(rest, "resume", optional=True)
    resume = resume and resumed != ""  # as a script has it: --resume '' is none
    resumed = resumed or None
    _, out, rest = option_value(rest, "out")
    _, data_folder, rest = option_value(rest, "data")
    _, method, rest = option_value(rest, "method")
    _, task, rest = option_value(rest, "task")
    _, seeds_text, rest = option_value(rest, "seeds")
    trackers = [name for name in TRACKER_FLAGS if f"--{name}" in rest or (wandb_word and name == "wandb")]
    rest = [a for a in rest if a not in [f"--{name}" for name in trackers]]
    classic = translate(rest, typed=typed)
    if data_folder and classic.data:
        raise UsageError(f"--data {data_folder} and --dataset {classic.data}: leave one of them out")
    data_folder = data_folder or classic.data
    refuse_unknown_flags(classic.rest, fields=flag_names(), own=OWN_FLAGS)
    if resume and out and not (resumed or classic.rest or classic.flags or method or task):
        resumed = out  # --resume --out DIR
    if not (classic.rest or classic.flags or classic.evaluate or method or task or resumed or print_config):
        if ranks is None or ranks.writes:
            say(WHAT_TO_TYPE)
        return UsageError.exit_status
    asked = asked_recipe(classic, method, resumed, task=task)
    recipe = asked.recipe
    if print_config:
        if as_json:
            answer_json(recipe.settings())
        else:
            answer(recipe.to_yaml().rstrip())
        return 0
    if ranks is None or ranks.writes:
        for text in [*asked.notes, *classic.notes_on(recipe)]:
            say(f"note: {text}")
    if classic.evaluate is not None:
        return _evaluate(classic, recipe, data_folder=data_folder, as_json=as_json)
    seeds = None if seeds_text is None else parse_seeds(seeds_text)
    if seeds and any(word.partition("=")[0] == "--seed" for word in classic.rest):
        raise UsageError(f"--seeds {seeds_text} and --seed: leave one of them out")
    if classic.start_epoch and not resume:
        raise UsageError(f"--start-epoch {classic.start_epoch}: a training goes on from a checkpoint: add --resume RUN")
    if overwrite and resume:
        raise UsageError("--overwrite replaces a run, --resume goes on with it: leave one of them out")
    named = run_folder(out=out, resumed=resumed, named=classic.run_folder(recipe))
    folder = named or Path("runs") / recipe.name
    if overwrite:
        refuse_other_folder(folder)
        refuse_own_weights(folder, {"init_from": recipe.init_from, "teacher": recipe.teacher})
    elif named or resume:
        refuse_used_folder(folder, seeds, resume=resume)
    else:
        folder = _free_folder(folder, ranks)
    with lock_folder(folder, ranks):  # before the data are loaded: who comes second learns of it at once
        result = _train_all(
            recipe,
            folder,
            seeds=seeds,
            classic=classic,
            data_folder=data_folder,
            resume=resume,
            overwrite=overwrite,
            trackers=trackers,
            ranks=ranks,
        )
    if as_json:
        answer_json(result)
    else:
        reached = task_lines if recipe.continual.tasks else outcome_lines
        for line in reached(result) if seeds is None else summary_lines(result):
            answer(line)
    return 0


def _take_wandb_word(argv: list[str]) -> tuple[bool, list[str]]:
    """Take WANDB_WORD out of a command line: (was it there, the rest). It stands anywhere but first or as a value."""
    alone = [f"--{name}" for name in (*SWITCHES, "resume")]  # flags that ask for no value
    rest = argv[:1]
    for before, word in pairwise(argv):
        is_value = before.startswith("-") and "=" not in before and before not in alone
        if word != WANDB_WORD or is_value:
            rest.append(word)
    return len(rest) < len(argv), rest


def _free_folder(folder: Path, ranks: Ranks | None) -> Path:
    """Where a training goes that names no folder: beside the runs that are there already."""
    free = free_folder(folder) if ranks is None else ranks.first(lambda: free_folder(folder))
    if free != folder and (ranks is None or ranks.writes):
        say(
            f"note: {folder} holds a run already, so this one goes into {free}; "
            f"--resume {folder} goes on with it, --overwrite replaces it"
        )
    return free


def _train_all(
    recipe: Recipe,
    folder: Path,
    *,
    seeds: Sequence[int] | None,
    classic: Classic,
    data_folder: str | None,
    resume: bool,
    overwrite: bool,
    trackers: Sequence[str],
    ranks: Ranks | None,
) -> dict[str, Any]:
    """One training into `folder`, or one for each seed into folders in it: what result.json or seeds.json says."""
    from onebit.runs.resolve import resolve
    from onebit.train.ranks import ALONE

    ranks = ranks or ALONE
    set_threads()
    machine = resolve(recipe, trackers=trackers, ranks=ranks)
    recipe, data = _load(recipe, folder if resume else None, data_folder=data_folder, ranks=ranks)
    if classic.classes not in (None, len(data.classes)):
        raise UsageError(
            f"--model_config: num_classes is {classic.classes}, {data.name} has {len(data.classes)} classes"
        )

    with replacing(folder, ranks, wanted=overwrite) as on_begin:
        how: dict[str, Any] = {
            "resume": resume,
            "trackers": trackers,
            "ranks": ranks,
            "machine": machine,
            "on_begin": on_begin,
        }

        def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
            if recipe.continual.tasks:
                return learn_tasks(recipe, data, folder, **how)
            with lock_folder(folder, ranks):  # that of one seed is another one than that of all
                return _train(recipe, data, folder, classic=classic, **how)

        if seeds is None:
            return train(recipe, folder)
        return train_seeds(recipe, seeds, folder, train=train, resume=resume, ranks=ranks)


def _evaluate(classic: Classic, recipe: Recipe, *, data_folder: str | None, as_json: bool) -> int:
    """`-e FILE`: the accuracy of what ships on the test split; the recipe is for a file that does not carry one."""
    from onebit.cli.evaluate_verb import evaluate_run, show
    from onebit.cli.evaluate_verb import main as evaluate_verb

    assert classic.evaluate is not None
    if classic.evaluate.endswith(".1bit"):
        where = ["--data", data_folder] if data_folder else []
        return evaluate_verb([classic.evaluate, *where, *(["--json"] if as_json else [])])
    from onebit.runs.run import open_run

    set_threads()
    run = open_run(classic.evaluate, fallback=recipe)
    if classic.model is not None and run.recipe.model.name != recipe.model.name:
        raise UsageError(f"{classic.evaluate} holds a {run.recipe.model.name}, --model says {recipe.model.name}")
    show(evaluate_run(run, weights="binary", data_folder=data_folder), as_json=as_json)
    return 0


def _load(recipe: Recipe, folder: Path | None, *, data_folder: str | None, ranks: Ranks) -> tuple[Recipe, Dataset]:
    """The data of a recipe, and the recipe with the size of its validation split in place of null.

    Args:
        folder: of a training that goes on, which may remember where the data lay.
    """
    from onebit.common.memory import keep_freed_memory
    from onebit.runs.run_data import load_from_place, place_of_training

    keep_freed_memory()
    with download_progress() as fetched:
        told = fetched if ranks.writes else None
        place = None if folder is None else place_of_training(folder)
        data = ranks.in_turns(lambda: load_from_place(recipe, place, directory=data_folder, progress=told))
    return dataclasses.replace(recipe, validation=len(data.validation)), data


def _train(
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    resume: bool,
    classic: Classic,
    trackers: Sequence[str],
    ranks: Ranks,
    machine: Machine,
    on_begin: Callable[[], None],
) -> dict[str, Any]:
    """Train into a run folder, talking; a recipe that is refused before its first step leaves nothing there.

    Args:
        on_begin: called after the first step.
    """
    from onebit.cli.results_table import RESULTS_TABLE, write_results
    from onebit.cli.talk import talking
    from onebit.runs.run import start_folder, train_run
    from onebit.train.batch_log import BatchWatch

    stage = folder / STAGE_FOLDER
    table = folder / RESULTS_TABLE
    made = (stage / "recipe.yaml", stage, folder / "recipe.yaml", folder / "log.txt", table, folder, *folder.parents)
    new_paths = [path for path in made if not path.exists()]
    going_on = ranks.first(lambda: start_folder(folder, recipe, resume=resume))
    ranks.first(lambda: _check_start(folder, classic.start_epoch))
    # the table says from the start that this run has one: whoever resumes it need not say so
    classic_run = ranks.first(lambda: classic.spoken or table.exists())
    if classic_run and ranks.writes:
        write_results(folder)
    with talking(recipe.name, folder, ranks, new_paths=new_paths, on_begin=on_begin) as talk:
        if resume and not going_on:
            talk.note(f"{folder} holds no checkpoint yet: starting afresh")
        about = f": {recipe.summary}" if recipe.summary else ""
        talk.note(f"{recipe.name}{about}; {data.name} from {data.directory or 'memory'}")
        talk.note(
            f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test images"
            + (f" ({data.note})" if data.note else "")
        )
        talk.note(_precision_line(recipe, machine, processes=ranks.world))
        if recipe.first_stage:
            talk.note(f"in two stages: first {recipe.first_stage:g} epochs with real weights, into {stage}")

        def epoch_done(row: EpochLog) -> None:
            talk.epoch(row)
            if classic_run and ranks.writes:
                write_results(folder)

        result = train_run(
            recipe,
            data,
            folder,
            resume=resume,
            ranks=ranks,
            machine=machine,
            trackers=trackers,
            on_step=talk.step,
            on_epoch=epoch_done,
            on_model=talk.model,
            batch_watch=BatchWatch(classic.print_freq, lambda row: talk.note(str(row))) if classic_run else None,
        )
        for line in outcome_lines(result):
            talk.write(line)
        return result


def _check_start(folder: Path, epoch: int | None) -> None:
    """Refuse a --start-epoch that is not the number of epochs in the checkpoint."""
    if epoch is None:
        return
    from onebit.train.weights import read_state

    checkpoint = folder / "last.ckpt"
    done = read_state(checkpoint)[1].get("epoch") if checkpoint.exists() else 0
    if done != epoch:
        raise UsageError(f"--start-epoch {epoch}: {folder} has a checkpoint of epoch {done}; leave the flag out")


def _precision_line(recipe: Recipe, machine: Machine, *, processes: int) -> str:
    why = " (the device multiplies it natively; ±1 weights are exact in it)" if machine.precision == "bf16" else ""
    where = f"{machine.device if processes == 1 else machine.device.type}, {machine.threads} threads"
    where = where if processes == 1 else f"{processes} processes ({where})"
    return f"{machine.precision} products{why if recipe.precision == 'auto' else ''} on {where}"
