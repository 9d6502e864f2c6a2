"""What `onebit train` does with several tasks one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.output import percent
from onebit.cli.talk import talking
from onebit.common.files import write_atomic
from onebit.recipe import Recipe
from onebit.train.history import TABLE_FILE, holds_run, in_use

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.report.tasks import Row
    from onebit.runs.machine import Machine
    from onebit.runs.task_grid import Cell
    from onebit.train.ranks import Ranks

PICTURE = "continual.png"


def learn_tasks(
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    resume: bool,
    trackers: Sequence[str],
    ranks: Ranks,
    machine: Machine,
    on_begin: Callable[[], None],
) -> dict[str, Any]:
    """Learn all tasks into a folder, talking; a table is there after each task, a picture at the end.

    A training that is refused before its first step leaves nothing there; `on_begin` is called after that step.

    Raises:
        UsageError: the folder holds a training and `resume` was not asked for.
    """
    from onebit.report.tasks import plot_tasks, task_rows
    from onebit.runs.continual import arms, train_continual
    from onebit.runs.run import refuse_other_recipe

    if not resume and (holds_run(folder) or (folder / "recipe.yaml").exists()):
        raise in_use(folder)
    refuse_other_recipe(folder, recipe)
    first = folder / next(iter(arms(recipe))) / "task-1"  # an unknown method is refused before anything is written
    files = [folder / name for name in (TABLE_FILE, "recipe.yaml", "log.txt")]
    made = (first / "recipe.yaml", first, first.parent, *files, folder, *folder.parents)
    new_paths = [path for path in made if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "recipe.yaml", recipe.to_yaml().encode())
    with talking(recipe.name, folder, ranks, new_paths=new_paths, on_begin=on_begin) as talk:

        def learnt(method: str, task: int, cells: Sequence[Cell]) -> None:
            row = task_rows([cells])[0]  # the whole table comes at the end
            reached = f"mean test accuracy {percent(row.means[0])} on the tasks so far ({row.weights} weights)"
            talk.note(f"{method}: task {task} of {recipe.continual.tasks} learnt, {reached}")

        talk.note(f"{recipe.name}: {recipe.continual.tasks} tasks of {data.name} from {data.directory or 'memory'}")
        result = train_continual(
            recipe,
            data,
            folder,
            resume=resume,
            trackers=trackers,
            machine=machine,
            on_step=talk.step,
            on_epoch=talk.epoch,
            on_task=learnt,
        )
        for line in task_lines(result):
            talk.write(line)
    title = f"{result['recipe']}, {result['dataset']}, {result['epochs']:g} epochs a task, seed {result['seed']}"
    plot_tasks(_rows(result), folder / PICTURE, tasks=result["tasks"], title=title)
    return result


def task_lines(result: Mapping[str, Any]) -> list[str]:
    """The accuracy on every task after every task, for people."""
    end = f"{result['seconds']:.1f} s; table and picture in {result['folder']}"
    return [table_heading([result["seed"]]), *map(str, _rows(result)), end]


def table_heading(seeds: Iterable[object]) -> str:
    """What stands above the table."""
    each = [str(seed) for seed in seeds]
    told = f"seed{'s' if len(each) > 1 else ''} {', '.join(each)}"
    return f"test accuracy on task 1, 2, ... after each task, each under its own permutation; {told}"


def _rows(result: Mapping[str, Any]) -> list[Row]:
    from onebit.report.tasks import task_rows
    from onebit.runs.task_grid import Cell

    return task_rows([[Cell(**cell) for cell in result["cells"]]])
