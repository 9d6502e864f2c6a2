"""What `onebit train` does with several tasks one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.output import percent
from onebit.cli.talk import talking
from onebit.errors import UsageError
from onebit.files import write_atomic
from onebit.recipe import Recipe
from onebit.train.history import TABLE_FILE

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.train.continual import Cell
    from onebit.train.ranks import Ranks

PICTURE = "continual.png"
USED = (TABLE_FILE, "recipe.yaml")


def learn_tasks(
    recipe: Recipe, data: Dataset, folder: Path, *, resume: bool, trackers: Sequence[str], ranks: Ranks
) -> dict[str, Any]:
    """Learn all tasks into a folder, talking; a table and a picture are there after each task.

    A training that is refused before its first step leaves nothing there.

    Raises:
        UsageError: the folder holds a training and `resume` was not asked for, or there are several processes.
    """
    from onebit.report.continual import plot_tasks
    from onebit.train.continual import arms, train_continual
    from onebit.train.run import refuse_other_recipe

    if ranks.world > 1:
        raise UsageError("several tasks are learnt by one process: leave torchrun out")
    if not resume and any((folder / name).exists() for name in USED):
        raise UsageError(f"{folder} holds a run already: go on with --resume {folder}, or choose another --out")
    refuse_other_recipe(folder, recipe)
    first = folder / next(iter(arms(recipe))) / "task-1"  # an unknown method is refused before anything is written
    made = (first / "recipe.yaml", first, first.parent, *(folder / name for name in (*USED, "log.txt")), folder)
    new_paths = [path for path in (*made, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "recipe.yaml", recipe.to_yaml().encode())
    with talking(recipe.name, folder, ranks, new_paths=new_paths) as talk:

        def learnt(method: str, task: int, cells: Sequence[Cell]) -> None:
            for weights, bn in dict.fromkeys((cell.weights, cell.bn) for cell in cells):
                row = [cell.accuracy for cell in cells if (cell.weights, cell.bn) == (weights, bn)]
                talk.note(_row(method, task, weights, bn, row))

        talk.note(f"{recipe.name}: {recipe.continual.tasks} tasks of {data.name} from {data.directory or 'memory'}")
        result = train_continual(
            recipe,
            data,
            folder,
            resume=resume,
            trackers=trackers,
            on_step=talk.step,
            on_epoch=lambda row: talk.note(str(row)),
            on_task=learnt,
        )
    plot_tasks(result, folder / PICTURE)
    return result


def task_lines(result: Mapping[str, Any]) -> list[str]:
    """The accuracy on every task after every task, for people."""
    cells = result["cells"]
    lines = [f"test accuracy on task 1, 2, ... after each task, each under its own permutation; seed {result['seed']}"]
    for method, weights, bn in dict.fromkeys((cell["method"], cell["weights"], cell["bn"]) for cell in cells):
        for task in range(1, result["tasks"] + 1):
            row = [
                cell["correct"] / cell["count"]
                for cell in cells
                if (cell["method"], cell["weights"], cell["bn"], cell["task"]) == (method, weights, bn, task)
            ]
            lines.append(_row(method, task, weights, bn, row))
    return [*lines, f"{result['seconds']:.1f} s; table and picture in {result['folder']}"]


def _row(method: str, task: int, weights: str, bn: str, accuracies: Sequence[float]) -> str:
    """One line of the table: the accuracy on each task seen so far, and their mean."""
    each = " ".join(f"{100 * accuracy:6.2f}" for accuracy in accuracies)
    norm = "BatchNorm of the latest task" if bn == "trained" else "BatchNorm of each task"
    mean = percent(sum(accuracies) / len(accuracies))
    return f"{method} after task {task}: {each}  mean {mean} ({weights} weights, {norm})"
