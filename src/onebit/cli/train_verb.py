"""`onebit train`."""

from __future__ import annotations

import dataclasses
import os
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import set_threads
from onebit.cli.main import INTERRUPTED
from onebit.cli.output import answer_either, download_progress, progress, say
from onebit.cli.seeds import train_seeds
from onebit.cli.train_command import TrainCommand, read_command, recipe_source, train_request, translated
from onebit.cli.train_help import MAX_VALUE_LENGTH, USAGE, train_help
from onebit.common.files import append_text
from onebit.common.progress import print_answer
from onebit.common.text import table
from onebit.errors import OnebitError, TrainingError, UsageError, shortened
from onebit.recipe import Recipe, flag_text
from onebit.runs.folder import PICTURE, RunFolder, remove
from onebit.train.history import holds_run, refuse_used

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.runs.training import Machine
    from onebit.train.printing import TrainingPrinter
    from onebit.train.ranks import Ranks


def main(argv: list[str]) -> int:
    if "WORLD_SIZE" not in os.environ:
        return _main(argv)
    return run_under_torchrun(lambda ranks: _main(argv, ranks))


def run_under_torchrun(verb: Callable[[Ranks], int]) -> int:
    """Run the verb in a process of torchrun: only rank 0 prints, and exactly one rank reports an error."""
    from onebit.train.ranks import join, launched_ranks, leave, meet

    ranks = launched_ranks()
    if ranks.world == 1:
        return verb(ranks)
    with ExitStack() as quiet:
        if not ranks.writes:
            nothing = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
            quiet.enter_context(redirect_stdout(nothing))
            quiet.enter_context(redirect_stderr(nothing))
        try:
            ranks = meet(ranks)
            join(ranks)
            status = verb(ranks)
            leave(ranks)
            return status
        except (Exception, KeyboardInterrupt) as error:
            reports = ranks.is_first_to_report()
            ranks.end()
            if reports:
                raise
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else OnebitError.exit_status


def _main(argv: list[str], ranks: Ranks | None = None) -> int:
    """The verb in one process, alone or under torchrun."""
    if meant := translated(argv):
        say(f"note: onebit {shlex.join(meant)}")
        if meant[0] == "evaluate":
            from onebit.cli import evaluate_verb

            return evaluate_verb.main(meant[1:])
        argv = meant[1:]
    command = read_command(argv)
    if command.help:
        recipe = train_request(command) if command.names_training else None
        code = None
        if recipe is not None and command.names_custom_model:
            from onebit.runs.own_model import load_code, parameters

            code = parameters(load_code(recipe.model.name))
        print_answer(train_help(recipe, code))
        return 0
    if not command.names_training:
        say(f"usage: {USAGE}")
        return UsageError.exit_status
    recipe = train_request(command)
    if command.print_config or command.explain:
        from onebit.runs.names import check_names

        check_names(recipe)
    if command.print_config:
        answer_either(recipe.settings(), recipe.to_yaml().rstrip(), as_json=command.json)
        return 0
    if command.explain:
        from onebit.recipe.request import origins

        rows = origins(recipe, command.flags, recipe_source(command), method=command.method, task=command.task)
        cells = [[name, shortened(flag_text(value), MAX_VALUE_LENGTH), origin] for name, value, origin in rows]
        facts = {name: {"value": value, "from": origin} for name, value, origin in rows}
        answer_either(facts, table([["setting", "value", "from"], *cells]), as_json=command.json)
        return 0
    from onebit.report.tables import result_lines

    with _folder(command, recipe, ranks) as folder:
        result = _train_all(command, recipe, folder)
    answer_either(result, "\n".join(result_lines(result)), as_json=command.json)
    return 0


@contextmanager
def _folder(command: TrainCommand, recipe: Recipe, ranks: Ranks | None) -> Iterator[RunFolder]:
    """The locked run folder of a command: the named one, or runs/NAME, numbered if that holds a run."""
    folder = RunFolder(command.folder or Path("runs") / recipe.name, ranks, command.resume)
    seeds = command.seeds
    if command.overwrite:
        if not folder.is_replaceable():
            raise UsageError(f"--overwrite: expected a run folder, got {folder}")
    elif command.folder or command.resume:
        if seeds is None and folder.seeds():
            raise UsageError(f"{folder} holds the runs of several seeds: add --seeds, or name one of them")
        if seeds is not None and holds_run(folder.path):
            raise UsageError(f"{folder} holds a single run: leave --seeds out, or choose another --out")
        for run in [folder] if seeds is None else map(folder.seed, seeds):
            refuse_used(run.path, resume=command.resume)
    if command.folder or command.resume or command.overwrite:
        with folder.locked():  # before the data are loaded, so that a second training fails at once
            yield folder
    else:
        with folder.free() as free:
            if free != folder:
                say(f"note: {folder} holds a run already (--resume, --overwrite): writing to {free}")
            yield free


def _train_all(command: TrainCommand, recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Train into `folder`, or into a subfolder for each seed; returns result.json or seeds.json."""
    from onebit.common.memory import keep_freed_memory
    from onebit.runs.opening import load_recipe_data
    from onebit.runs.own_model import settle_code, settle_input
    from onebit.runs.resolve import resolve
    from onebit.train.ranks import ALONE

    ranks = folder.ranks or ALONE
    set_threads()
    recipe = settle_code(recipe, named=command.flags)
    machine = resolve(recipe, ranks=ranks)
    keep_freed_memory()
    known = folder.data_directory if command.resume else None
    with download_progress() as bar:
        data = ranks.in_turns(lambda: load_recipe_data(recipe, directory=command.data, fallback=known, progress=bar))
    recipe = dataclasses.replace(recipe, validation=len(data.validation))
    recipe = settle_input(recipe, data)

    def train(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
        with folder.locked():  # the folder of a seed has its own lock
            return _train(command, recipe, data, folder, machine)

    try:
        with folder.replacing(wanted=command.overwrite, seeds=command.seeds):
            if command.seeds is None:
                return train(recipe, folder)
            return train_seeds(recipe, command.seeds, folder, data=data, train=train)
    except KeyboardInterrupt:
        words = [
            word for flag, name in recipe.model.code().items() for word in (f"--{flag.removesuffix('.name')}", name)
        ]
        words += ["--seeds", ",".join(map(str, command.seeds))] if command.seeds else []
        start = "onebit" if ranks.world == 1 else "torchrun … -m onebit"
        resume = shlex.join([*words, "--resume", str(folder)])
        raise KeyboardInterrupt(f"interrupted; continue with: {start} train {resume}") from None


def _train(command: TrainCommand, recipe: Recipe, data: Dataset, folder: RunFolder, machine: Machine) -> dict[str, Any]:
    """Train one task or several into a run folder, with progress messages; several are drawn at the end."""
    from onebit.report.tables import result_lines, result_rows
    from onebit.report.tasks import plot_tasks
    from onebit.runs.continual import train_continual
    from onebit.runs.run import train_run
    from onebit.train.step import BatchWatch

    with _printing(recipe.name, folder) as printer:
        has_checkpoint = folder.start(recipe)
        if command.resume and not has_checkpoint and not recipe.continual.tasks:
            printer.note(f"{folder} holds no checkpoint yet: starting afresh")
        about = f": {recipe.summary}" if recipe.summary else ""
        printer.note(f"{recipe.name}{about}; {data.name} from {data.directory or 'memory'}")
        printer.note(
            f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test images"
            + (f" ({data.note})" if data.note else "")
        )
        threads = f"{machine.threads} thread{'' if machine.threads == 1 else 's'}"
        world = 1 if folder.ranks is None else folder.ranks.world
        devices = str(machine.device) if world == 1 else f"{world} processes, each {machine.device.type}"
        printer.note(f"{machine.precision} products on {devices}, {threads}")
        options: dict[str, Any] = {
            "trackers": command.trackers,
            "on_step": printer.step,
            "on_epoch": printer.epoch,
        }
        if command.print_freq:
            options["batch_watch"] = BatchWatch(command.print_freq, lambda row: printer.note(str(row)))
        if tasks := recipe.continual.tasks:
            options["on_task"] = lambda method, task: printer.note(f"{method}: task {task} of {tasks} learned")
            result = train_continual(recipe, data, folder, **options)
        else:
            result = train_run(recipe, data, folder, on_model=printer.model, **options)
        for line in result_lines(result):
            printer.write(line)
    if tasks:
        title = f"{recipe.name}, {recipe.dataset}, {recipe.epochs:g} epochs a task, seed {recipe.seed}"
        plot_tasks(result_rows(result), folder.path / PICTURE, tasks=tasks, title=title)
    return result


@contextmanager
def _printing(name: str, folder: RunFolder) -> Iterator[TrainingPrinter]:
    """A context in which warnings become notes; a run that fails before its first step leaves no new files."""
    from onebit.train.printing import TrainingPrinter

    before, printer = folder.written(), None
    try:
        with (
            progress(name, "steps") as bar,
            append_text(folder.path / "log.txt") if folder.writes else nullcontext() as log,
            warnings.catch_warnings(),
        ):
            printer = TrainingPrinter(bar, log)
            warnings.showwarning = lambda message, *where: printer.note(f"note: {message}")
            try:
                yield printer
            except (KeyboardInterrupt, TrainingError) as stop:
                with suppress(OSError):
                    printer.write(str(stop) or "interrupted")
                raise
    except Exception:
        if folder.writes and not (printer and printer.began):
            for path in folder.written():
                if path not in before:
                    remove(path)
        raise
