"""Reports: curves, weight histograms and a comparison of runs as PNG and one self-contained HTML page.

Reads run folders without torch; matplotlib is imported by the first picture.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from onebit.common import __version__
from onebit.common.files import OWN, atomic_files, refuse_foreign
from onebit.recipe import flag_text
from onebit.report.curves import plot_health, plot_history as plot_history, write_curves
from onebit.report.drawing import Picture
from onebit.report.histograms import plot_run_weights, plot_weights as plot_weights
from onebit.report.predictions import plot_answers as plot_answers, plot_predictions as plot_predictions
from onebit.report.run_folders import Group, data_name, differing_settings, read_groups
from onebit.report.tables import Table, class_tables, report_numbers, report_tables
from onebit.report.tasks import group_rows, plot_tasks
from onebit.report.wording import MISSING, printable


def compare_tasks(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The tables of continual learning as numbers, one per group of runs that differ only in the seed.

    For `runs` and errors see `write_report`; runs of a single task are left out.

    Returns:
        For each group: label, folders, seeds, number of tasks, mean seconds, and `table`, with a row for each method,
        test mode, BatchNorm statistics and task: the accuracy on each task so far and their mean, over the seeds.
    """
    return report_numbers(read_groups(runs)).get("tasks", [])


def compare_runs(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The comparison of a report as numbers: one row per group of finished runs on the same data, a seed each.

    Unfinished runs and repeated seeds have separate rows. For `runs` and errors see `write_report`; runs of several
    tasks are left out.

    Returns:
        For each row: label, folders, seeds, epochs done and planned, whether it is finished, mean seconds; `validation`
        of the best epochs (None without a validation split) and `test` by test mode: n, mean accuracy, its sample
        standard deviation (n − 1; None for one run); `size`: binary and all weights, and bytes when packed (None if
        unknown).
        Segmentation runs also have a list `masks`: split, test mode, mean IoU and Dice.
    """
    return report_numbers(read_groups(runs))["rows"]


def write_report(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Compare run folders: pictures, and one page that contains them all.

    Finished runs on the same data that differ only in the seed become one curve, mean ± sample standard deviation
    (n − 1), and one row; the weights and the health of the first of them are drawn. Unfinished runs and repeated seeds
    have separate curves and rows.

    Args:
        runs: run folders, finished or not, folders of several tasks or of `--seeds`, or folders of such folders;
            recipe.yaml, result.json and weight files may be missing.
        folder: receives error.png, loss.png, time.png, mean-iou.png for masks, weights-<run>.png, health-<run>.png,
            tasks-<recipe>.png for several tasks, and index.html; created if needed.

    Returns:
        The files written.

    Raises:
        DataError, FormatError, OSError: a run without an epoch or a finished task, a damaged or missing file of a run.
        UsageError: a file would be replaced that onebit has not written. OnebitError, OSError: a file cannot be
            written. In all cases nothing is changed.

    Example:
        >>> write_report([Path("runs/mnist-fast"), Path("runs/mnist-real")], Path("report"))  # doctest: +SKIP
    """
    return write_groups(read_groups(runs), Path(folder))


def write_groups(groups: Sequence[Group], folder: Path) -> list[Path]:
    """`write_report` of what `read_groups` read."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_files(folder) as staging:
        pictures, page = _draw(groups, staging), staging / "index.html"
        page.write_bytes(_page(groups, pictures))
        written = [Path(path.name) for path in [*(path for _, path, _ in pictures), page]]
        refuse_foreign(folder, written)
    return [folder / name for name in written]


def _draw(groups: Sequence[Group], folder: Path) -> list[Picture]:
    """Draw all pictures of a report: curves, then weights, health and tasks of each group, from its first run."""
    weights, healths, tasks = list[Picture](), list[Picture](), list[Picture]()
    names = _file_names(group.label if group.tasks else group.runs[0].name for group in groups)
    for group, name in zip(groups, names, strict=True):
        run = group.runs[0]
        about = run.name + (f", the first of {len(group.runs)} seeds" if len(group.runs) > 1 else "")
        if run.weights is not None:
            path = folder / f"weights-{name}.png"
            plot_run_weights(run, path)
            weights.append(("Weights", path, f"Weights of {about}, a panel per layer."))
        if any(row.layers for row in run.history):
            path = folder / f"health-{name}.png"
            plot_health(run.history, path, name=run.name)
            scale = "Shares per layer and epoch, on a logarithmic scale that begins at 0.01 %."
            healths.append(("Training health", path, f"Health of each layer of {about}. {scale}"))
        if group.tasks:
            path, title = folder / f"tasks-{name}.png", f"{group.label} on {data_name([group])}"
            plot_tasks(group_rows(group), path, tasks=group.tasks, title=title)
            caption = f"Test accuracy of {title}, on each task after each task; BatchNorm of the latest task."
            tasks.append(("Tasks", path, caption))
    curves = write_curves([group for group in groups if not group.tasks], folder)
    return [*curves, *weights, *healths, *tasks]


def _file_names(names: Iterable[str]) -> list[str]:
    """Names as parts of file names, safe on every system and unique regardless of case."""
    unique: dict[str, str] = {}
    for name in names:
        base = part = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80].strip("-.") or "run"
        number = 2
        while part.casefold() in unique:
            part, number = f"{base}-{number}", number + 1
        unique[part.casefold()] = part
    return list(unique.values())


def _page(groups: Sequence[Group], pictures: Sequence[Picture]) -> bytes:
    """One self-contained HTML file with the tables, the pictures and the settings, as UTF-8; every text is escaped."""
    from jinja2 import Environment
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) else printable(value, limit=1000)

    def setting(key: str, group: Group) -> str:
        values = (flag_text(run.settings[key]) for run in group.runs if key in run.settings)
        return ", ".join(dict.fromkeys(values)) or MISSING

    runs = sum(len(group.runs) for group in groups)
    tables = [*report_tables(groups), *class_tables(groups)]
    if differing := [[key, *(setting(key, group) for group in groups)] for key in differing_settings(groups)]:
        tables.append(Table("Settings that differ", ["setting", *(group.label for group in groups)], differing))
    details = []
    for group in groups:
        if group.settings:
            names = ["runs", ", ".join(run.name for run in group.runs)]
            details.append(Table(group.label, [], [names, *([key, setting(key, group)] for key in group.settings)]))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=shown)
    page = environment.from_string(files("onebit.report").joinpath("page.html").read_text("utf-8")).render(
        own=OWN.decode(),
        title=groups[0].label if len(groups) == 1 else f"Comparison of {len(groups)} recipes",
        subtitle=f"{runs} run{'s' if runs > 1 else ''} on {data_name(groups)}",
        tables=tables,
        pictures=pictures,
        embedded=lambda path: Markup(base64.b64encode(path.read_bytes()).decode()),
        settings=details,
        version=__version__,
    )
    return page.encode("utf-8")
