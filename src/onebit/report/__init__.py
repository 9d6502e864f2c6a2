"""Reports: curves, weight histograms and a comparison of runs as PNG and one self-contained HTML page.

Reads run folders without torch; matplotlib is imported by the first picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from onebit.report.drawing import add_title, picture, scale_words
from onebit.report.health import has_health, plot_health
from onebit.report.masks import mask_rows
from onebit.report.page import data_name, render_page
from onebit.report.predictions import plot_answers, plot_predictions
from onebit.report.runs import Group, Run, find_folders, group_runs, read_runs, tests_by_mode
from onebit.report.tasks import TaskRun, compared_tasks, group_rows, read_task_runs
from onebit.report.weights import open_weights, plot_run_weights, plot_weights
from onebit.report.wording import mean_sd, over_runs, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

Picture = tuple[str, Path, str]
"""(heading, PNG file, caption)."""


def read_groups(folders: Sequence[Path]) -> tuple[list[Group[Run]], list[Group[TaskRun]]]:
    """The groups of a report: of runs, and of trainings of several tasks.

    Raises:
        DataError, FormatError, UsageError: see `write_report`.
    """
    if not folders:
        raise DataError("there is no run to report: pass at least one run folder, written by `onebit train`")
    single, several = find_folders(folders)
    return group_runs(read_runs(single)), group_runs(read_task_runs(several))


def compare_tasks(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The tables of continual learning as numbers, one per group of trainings that differ only in the seed.

    Args:
        runs: see `write_report`; runs of a single task are left out.

    Returns:
        For each group: label, folders, seeds, number of tasks, mean seconds, and `table`, with a row for each method,
        test mode, BatchNorm statistics and task: the accuracy on each task so far and their mean, over the seeds.

    Raises:
        DataError, FormatError, UsageError: see `write_report`.
    """
    return compared_tasks(read_groups(runs)[1])


def compare_runs(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The comparison of a report as numbers: one row per group of runs that differ only in the seed.

    Args:
        runs: see `write_report`; trainings of several tasks are left out.

    Returns:
        For each row: label, folders, seeds, epochs done, mean seconds; `validation` of the best epochs (None without a
        validation split) and `test` by test mode: n, mean accuracy, its sample standard deviation (None for one run).
        Segmentation runs also have a list `masks`: split, test mode, mean IoU and Dice.

    Raises:
        DataError, FormatError, UsageError: see `write_report`.
    """
    rows = []
    for group in read_groups(runs)[0]:
        best = [run.history.best.validation_error for run in group.runs]
        validation = [1 - error for error in best if error is not None]
        masks = [
            {"split": row.split, "weights": row.weights, "mean_iou": spread(row.mean_iou)}
            | ({"dice": spread(row.dice)} if row.dice else {})
            for row in mask_rows([group])
        ]
        tests = tests_by_mode(group.runs).items()
        rows.append(
            {
                "label": group.label,
                "runs": [run.name for run in group.runs],
                "seeds": [run.settings.get("seed") for run in group.runs],
                "epochs": [run.history.rows[-1].epoch for run in group.runs],
                "seconds": mean_sd([run.seconds for run in group.runs])[0],
                "validation": over_runs(validation) if validation else None,
                "test": {mode: over_runs([score.accuracy for score in scores]) for mode, scores in tests},
                **({"masks": masks} if masks else {}),
            }
        )
    return rows


def write_report(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Compare run folders: pictures, and one page that contains them all.

    Runs that differ only in the seed become one curve, mean ± standard deviation, and one row; the weights and the
    health of the first of them are drawn.

    Args:
        runs: run folders, finished or not, folders of several tasks or of `--seeds`, or folders of such folders;
            recipe.yaml, result.json and weight files may be missing.
        folder: receives error.png, loss.png, time.png, mean-iou.png for masks, weights-<run>.png, health-<run>.png,
            tasks-<recipe>.png for several tasks, and index.html; created if needed.

    Returns:
        The files written.

    Raises:
        DataError: no run given, a folder that is not a run, a run without an epoch, or several tasks of which none is
            finished; nothing is written then.
        FormatError, UsageError: a damaged file of a run; the message names the file and, if it has lines, the line.
        OnebitError: a file cannot be written.

    Example:
        >>> write_report([Path("runs/mnist-fast"), Path("runs/mnist-real")], Path("report"))  # doctest: +SKIP
    """
    groups, several = read_groups(runs)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OnebitError(f"cannot make the folder {folder}: {error.strerror}; choose another one") from None
    remove_leftovers(folder)
    pictures = _write_curves(groups, folder) if groups else []
    taken: set[str] = set()
    healths: list[Picture] = []
    for group in groups:
        run = group.runs[0]
        about = run.name + (f", the first of {len(group.runs)} seeds" if len(group.runs) > 1 else "")
        name = _file_name(run.name, taken)
        if has_health(run.history):
            path = folder / f"health-{name}.png"
            plot_health(run.history, path, name=run.name)
            scale = "Shares per layer and epoch, on a logarithmic scale that begins at 0.01 %."
            healths.append(("Training health", path, f"Health of each layer of {about}. {scale}"))
        if run.weights is not None:
            path = folder / f"weights-{name}.png"
            plot_run_weights(run, path)
            pictures.append(("Weights", path, f"Weights of {about}, a panel per layer."))
    pictures += healths
    pictures += [_write_tasks(tasks, folder / f"tasks-{_file_name(tasks.label, taken)}.png") for tasks in several]
    page = folder / "index.html"
    write_atomic(page, render_page(groups, several, pictures))
    return [*(path for _, path, _ in pictures), page]


def _write_tasks(group: Group[TaskRun], path: Path) -> Picture:
    """The accuracy on every task after every task."""
    seeds = f", seed{'s' if len(group.seeds) > 1 else ''} {', '.join(group.seeds)}" if group.seeds else ""
    name = f"{group.label} on {data_name([group])}{seeds}"
    plot_tasks(group_rows(group), path, tasks=max(run.table.tasks for run in group.runs), title=name)
    return "Tasks", path, f"Test accuracy of {name}, on each task after each task; BatchNorm of the latest task."


def _write_curves(groups: Sequence[Group[Run]], folder: Path) -> list[Picture]:
    """error.png, loss.png and time.png, and mean-iou.png for masks."""
    curves = [
        Curve(group.label, tuple(run.history for run in group.runs), _smoothing(group.runs[0])) for group in groups
    ]
    data = data_name(groups)
    losses = {group.settings.get("loss") for group in groups}
    loss_name = str(losses.pop() or "").replace("_", " ") if len(losses) == 1 else ""
    chart = partial(_write_chart, data=data)
    pictures = [chart(folder / "error.png", "error", "Error per epoch.", curves, draw_error)]
    masked = [(group, curve) for group, curve in zip(groups, curves, strict=True) if curve.masked]
    if masked:
        of_masks, mask_curves = zip(*masked, strict=True)
        caption = "Mean IoU of the validation masks per epoch."
        chart_masks = partial(chart, data=data_name(of_masks), training=False)
        pictures.append(chart_masks(folder / "mean-iou.png", "mean IoU", caption, mask_curves, draw_mean_iou))
    floor = " No loss can fall below the dotted line." if any(curve.smoothing for curve in curves) else ""
    draw = partial(draw_loss, name=loss_name)
    pictures.append(chart(folder / "loss.png", "loss", f"Loss per epoch.{floor}", curves, draw))
    with picture(folder / "time.png", width=8, height=3.4) as figure:
        each, total = figure.subplots(1, 2)
        draw_seconds(each, curves)
        draw_total_time(total, curves)
        about = f"{curves[0].named} on {data}" if len(curves) == 1 else data
        add_title(figure, f"{about}: training time", size=10)
        add_legend(figure, curves, splits=False)
    caption = "Time per epoch, validation included, and its sum since the start."
    return [*pictures, ("Time", folder / "time.png", caption)]


def _write_chart(
    path: Path,
    what: str,
    caption: str,
    curves: Sequence[Curve],
    draw: Callable[[Axes, Sequence[Curve]], None],
    *,
    data: str,
    training: bool = True,
) -> Picture:
    """One panel of curves; the caption names its scale."""
    with picture(path, width=8, height=4.2) as figure:
        axes = figure.subplots()
        draw(axes, curves)
        scale = scale_words(axes)
        axes.set_title(title(what, curves, data=data, training=training))
        add_legend(figure, curves, training=training)
    return what[0].upper() + what[1:], path, caption + scale


def _smoothing(run: Run) -> tuple[float, int] | None:
    """(label smoothing, number of classes) if the loss is only the cross-entropy with smoothed labels."""
    smoothing, dataset = run.settings.get("label_smoothing"), str(run.settings.get("dataset"))
    if not isinstance(smoothing, float) or not 0 < smoothing < 1 or run.settings.get("teacher") is not None:
        return None
    classes: Any = DATASETS[dataset].classes if dataset in DATASETS else None
    if classes is None and run.weights is not None:
        classes = open_weights(run.weights)[0].get("classes")
    return (smoothing, len(classes)) if isinstance(classes, (list, tuple)) and classes else None


def _file_name(name: str, taken: set[str]) -> str:
    """A name as part of a file name: safe on every system, and unique regardless of case."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80].strip("-.") or "run"
    unique, number = base, 2
    while unique.casefold() in taken:
        unique, number = f"{base}-{number}", number + 1
    taken.add(unique.casefold())
    return unique
