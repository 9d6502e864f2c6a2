"""Several tasks one after the other, as `onebit train` learns them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.output import percent
from onebit.cli.progress_printer import printing_progress
from onebit.recipe import Recipe
from onebit.runs.folders import PICTURE

if TYPE_CHECKING:
    from onebit.cli.train_command import TrainCommand
    from onebit.data import Dataset
    from onebit.runs.machine import Machine
    from onebit.runs.task_grid import Cell
    from onebit.train.ranks import Ranks


def learn_tasks(
    command: TrainCommand,
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    machine: Machine,
    ranks: Ranks,
) -> dict[str, Any]:
    """Learn all tasks into a folder with progress messages, and draw them at the end."""
    from onebit.report.outcome import result_rows, task_lines
    from onebit.report.tasks import plot_tasks, task_rows
    from onebit.runs.continual import train_continual
    from onebit.runs.run import start_folder

    with printing_progress(recipe.name, folder, ranks) as printer:
        start_folder(folder, recipe, resume=command.resume)

        def task_done(method: str, task: int, cells: Sequence[Cell]) -> None:
            row = task_rows([cells])[0]  # the whole table comes at the end
            mean = f"mean test accuracy {percent(row.means[0])} on the tasks so far ({row.weights} weights)"
            printer.note(f"{method}: task {task} of {recipe.continual.tasks} learned, {mean}")

        printer.note(f"{recipe.name}: {recipe.continual.tasks} tasks of {data.name} from {data.directory or 'memory'}")
        result = train_continual(
            recipe,
            data,
            folder,
            resume=command.resume,
            trackers=command.trackers,
            machine=machine,
            on_step=printer.step,
            on_epoch=printer.epoch,
            on_task=task_done,
        )
        for line in task_lines(result):
            printer.write(line)
    title = f"{result['recipe']}, {result['dataset']}, {result['epochs']:g} epochs a task, seed {result['seed']}"
    plot_tasks(result_rows(result), folder / PICTURE, tasks=result["tasks"], title=title)
    return result
