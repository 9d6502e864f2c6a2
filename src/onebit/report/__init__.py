"""Reports: curves, weight histograms and a comparison of runs as PNG and one self-contained HTML page.

Reads run folders without torch; matplotlib is imported by the first picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onebit.common.files import remove_leftovers, write_atomic
from onebit.data import DATASETS
from onebit.errors import DataError, OnebitError
from onebit.report.continual import plot_tasks
from onebit.report.curves import (
    Curve,
    add_legend,
    draw_error,
    draw_loss,
    draw_mean_iou,
    draw_seconds,
    draw_total_time,
    plot_history,
    title,
)
from onebit.report.drawing import picture, scale_words
from onebit.report.health import has_health, plot_health
from onebit.report.masks import mask_rows
from onebit.report.page import data_name, render_page
from onebit.report.predictions import plot_answers, plot_predictions
from onebit.report.runs import Group, Run, find_folders, group_runs, read_runs
from onebit.report.tasks import TaskRun, compared_tasks, group_rows, read_task_runs
from onebit.report.weights import open_weights, plot_run_weights, plot_weights
from onebit.report.wording import mean_sd, over_runs, setting, spread

HEALTH_SCALE = "Shares per layer and epoch, on a logarithmic scale that begins at 0.01 %."

__all__ = [
    "compare_runs",
    "compare_tasks",
    "plot_answers",
    "plot_health",
    "plot_history",
    "plot_predictions",
    "plot_weights",
    "write_report",
]


def read_groups(folders: Sequence[Path]) -> tuple[list[Group[Run]], list[Group[TaskRun]]]:
    """What a report is of: groups of runs, and groups of trainings of several tasks.

    Raises:
        DataError, FormatError, UsageError: as `write_report`.
    """
    if not folders:
        raise DataError("there is no run to report: pass at least one run folder, as `onebit train` writes it")
    single, several = find_folders(folders)
    return group_runs(read_runs(single)), group_runs(read_task_runs(several))


def compare_tasks(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The tables of continual learning in a report as numbers: one for trainings that differ in nothing but the seed.

    Args:
        runs: as `write_report` takes them; those of one task are left out.

    Returns:
        For each label, folders, seeds, number of tasks, mean seconds; `table`, a row for each method, test mode,
        BatchNorm statistics and task, with the accuracy on each task seen so far and the mean of them, over the seeds.

    Raises:
        DataError, FormatError, UsageError: as `write_report`.
    """
    return compared_tasks(read_groups(runs)[1])


def compare_runs(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The comparison of a report as numbers: one row for runs whose recipes differ in nothing but the seed.

    Args:
        runs: as `write_report` takes them; trainings of several tasks are left out.

    Returns:
        For each row label, folders, seeds, epochs done, mean seconds; `validation` of the best epochs (None without a
        validation split) and `test` by test mode: n, mean accuracy, its sample standard deviation (None for one run).
        Runs that predict masks have a list `masks` as well: split, test mode, mean IoU and Dice.

    Raises:
        DataError, FormatError, UsageError: as `write_report`.
    """
    rows = []
    for group in read_groups(runs)[0]:
        modes = dict.fromkeys(mode for run in group.runs for mode in run.tests)
        best = [run.history.best.validation_error for run in group.runs]
        validation = [1 - error for error in best if error is not None]
        masks = [
            {"split": row.split, "weights": row.weights, "mean_iou": spread(row.mean_iou)}
            | ({"dice": spread(row.dice)} if row.dice else {})
            for row in mask_rows([group])
        ]
        rows.append(
            {
                "label": group.label,
                "runs": [run.name for run in group.runs],
                "seeds": [run.settings.get("seed") for run in group.runs],
                "epochs": [run.history.rows[-1].epoch for run in group.runs],
                "seconds": mean_sd([run.seconds for run in group.runs])[0],
                "validation": over_runs(validation) if validation else None,
                "test": {
                    mode: over_runs([run.tests[mode].accuracy for run in group.runs if mode in run.tests])
                    for mode in modes
                },
                **({"masks": masks} if masks else {}),
            }
        )
    return rows


def write_report(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Compare run folders: pictures and one page that holds them all.

    Runs whose recipes differ in nothing but the seed become one curve, mean ± standard deviation, and one row; the
    weights of the first of them are drawn.

    Args:
        runs: run folders, finished or not, folders of several tasks or of `--seeds`, or folders of such folders;
            recipe.yaml, result.json and weight files may be missing.
        folder: gets error.png, loss.png, time.png, mean-iou.png of masks, weights-<run>.png, health-<run>.png,
            tasks-<recipe>.png of several tasks, and index.html; made if it is not there.

    Returns:
        The files written.

    Raises:
        DataError: no run given, a folder that is no run, a run without an epoch, or several tasks of which none is
            learnt; nothing is written then.
        FormatError, UsageError: a damaged file of a run, named with its line where it has lines.
        OnebitError: a file cannot be written.

    Example:
        >>> write_report([Path("runs/mnist-fast"), Path("runs/mnist-real")], Path("report"))  # doctest: +SKIP
    """
    groups, learnt = read_groups(runs)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OnebitError(f"cannot make the folder {folder}: {error.strerror}; choose another one") from None
    remove_leftovers(folder)
    pictures = _write_curves(groups, folder) if groups else []
    taken: set[str] = set()
    healths = []
    for run, of in [(group.runs[0], len(group.runs)) for group in groups]:
        first = f", the first of {of} seeds" if of > 1 else ""
        file_name = _file_name(run.name, taken)
        if has_health(run.history):
            path = folder / f"health-{file_name}.png"
            plot_health(run.history, path, name=run.name)
            healths.append(("Training health", path, f"Health of each layer of {run.name}{first}. {HEALTH_SCALE}"))
        if run.weights is not None:
            path = folder / f"weights-{file_name}.png"
            plot_run_weights(run, path)
            pictures.append(("Weights", path, f"Weights of {run.name}{first}, a panel per layer."))
    pictures += healths
    pictures += [_write_tasks(tasks, folder / f"tasks-{_file_name(tasks.label, taken)}.png") for tasks in learnt]
    page = folder / "index.html"
    write_atomic(page, render_page(groups, learnt, pictures))
    return [*(path for _, path, _ in pictures), page]


def _write_tasks(group: Group[TaskRun], path: Path) -> tuple[str, Path, str]:
    """The accuracy on every task after every task, as (heading, file, caption)."""
    seeds = [setting(run.settings["seed"]) for run in group.runs if "seed" in run.settings]
    told = f", seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else ""
    name = f"{group.label} on {data_name([group])}{told}"
    plot_tasks(group_rows(group), path, tasks=max(run.table.tasks for run in group.runs), title=name)
    return "Tasks", path, f"Test accuracy of {name}, on each task after each task; BatchNorm of the latest task."


def _write_mean_iou(groups: Sequence[Group[Run]], path: Path) -> list[tuple[str, Path, str]]:
    """The mean IoU of the groups that predict masks, as (heading, file, caption); nothing where none does."""
    groups = [group for group in groups if _curve(group).masked]
    if not groups:
        return []
    curves = list(map(_curve, groups))
    with picture(path, width=8, height=4.2) as figure:
        axes = figure.subplots()
        draw_mean_iou(axes, curves)
        axes.set_title(title("mean IoU", curves, data=data_name(groups), training=False))
        add_legend(figure, curves, training=False)
    return [("Mean IoU", path, "Mean IoU of the validation masks per epoch.")]


def _curve(group: Group[Run]) -> Curve:
    return Curve(group.label, tuple(run.history for run in group.runs), _smoothing(group.runs[0]))


def _smoothing(run: Run) -> tuple[float, int] | None:
    """(label smoothing, number of classes) where the loss is nothing but the cross entropy with smoothed labels."""
    smoothing, dataset = run.settings.get("label_smoothing"), str(run.settings.get("dataset"))
    if not isinstance(smoothing, float) or not 0 < smoothing < 1 or run.settings.get("teacher") is not None:
        return None
    classes: Any = DATASETS[dataset].classes if dataset in DATASETS else None
    if classes is None and run.weights is not None:
        classes = open_weights(run.weights)[0].get("classes")
    return (smoothing, len(classes)) if isinstance(classes, (list, tuple)) and classes else None


def _write_curves(groups: Sequence[Group[Run]], folder: Path) -> list[tuple[str, Path, str]]:
    """error.png, loss.png and time.png, and mean-iou.png of masks, as (heading, file, caption)."""
    curves = list(map(_curve, groups))
    data = data_name(groups)
    losses = {group.settings.get("loss") for group in groups}
    loss_name = str(losses.pop() or "").replace("_", " ") if len(losses) == 1 else ""
    with picture(folder / "error.png", width=8, height=4.2) as figure:
        axes = figure.subplots()
        draw_error(axes, curves)
        error_axis = scale_words(axes)
        axes.set_title(title("error", curves, data=data))
        add_legend(figure, curves)
    with picture(folder / "loss.png", width=8, height=4.2) as figure:
        axes = figure.subplots()
        draw_loss(axes, curves, name=loss_name)
        loss_axis = scale_words(axes)
        axes.set_title(title("loss", curves, data=data))
        add_legend(figure, curves)
    with picture(folder / "time.png", width=8, height=3.4) as figure:
        each, total = figure.subplots(1, 2)
        draw_seconds(each, curves)
        draw_total_time(total, curves)
        about = f"{curves[0].named} on {data}" if len(curves) == 1 else data
        figure.suptitle(f"{about}: training time", fontsize=10, x=0.01, ha="left")
        add_legend(figure, curves, splits=False)
    floor = " No loss can fall below the dotted line." if any(curve.smoothing for curve in curves) else ""
    return [
        ("Error", folder / "error.png", f"Error per epoch.{error_axis}"),
        *_write_mean_iou(groups, folder / "mean-iou.png"),
        ("Loss", folder / "loss.png", f"Loss per epoch.{floor}{loss_axis}"),
        ("Time", folder / "time.png", "Time per epoch, validation included, and its sum since the start."),
    ]


def _file_name(name: str, taken: set[str]) -> str:
    """A name as part of a file name: safe everywhere, and not yet taken, capitals apart."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80].strip("-.") or "run"
    found, number = base, 2
    while found.casefold() in taken:
        found, number = f"{base}-{number}", number + 1
    taken.add(found.casefold())
    return found
