"""Run folders, read and checked without torch; finished runs that differ only in the seed form one group."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onebit.common.files import read_json, read_regular
from onebit.errors import DataError, FormatError
from onebit.recipe import DESCRIPTIVE, Recipe, flag_text, flatten, merge, read_settings
from onebit.report.wording import printable
from onebit.runs.result import RunResult, TaskTable, read_table
from onebit.train.history import (
    DATA_FILE,
    MAX_METRICS,
    MAX_RESULT,
    RESULT_FILE,
    TABLE_FILE,
    History,
    reported_weights,
    task_folders,
)

LABEL_LENGTH = 60


@dataclass(frozen=True)
class RunResults:
    """The contents of a run folder; of a folder of several tasks, with their `table` and without a history.

    name: the folder's name, unique in a report.
    settings: every recipe field by its flag name ("optimizer.lr"); empty without a recipe.yaml.
    result: from result.json; no `test` while the run is not finished.
    weights: best.safetensors, else final.safetensors, else None.
    data: identifies the data among others of the same name; "" if unknown.
    finished: whether its results may be averaged with those of other seeds.
    """

    name: str
    settings: dict[str, Any]
    history: History = field(default_factory=History)
    result: RunResult = field(default_factory=RunResult)
    weights: Path | None = None
    table: TaskTable = field(default_factory=TaskTable)
    data: str = ""
    finished: bool = True


@dataclass(frozen=True)
class Group:
    """Finished runs of one recipe on the same data with different seeds, or a single run.

    `label` is unique in a report among the groups of one task, and among those of several.
    """

    label: str
    runs: tuple[RunResults, ...]

    @property
    def settings(self) -> dict[str, Any]:
        return self.runs[0].settings

    @property
    def tasks(self) -> int:
        """The number of tasks, learned or not; 0 for runs on a single one."""
        return max(run.table.tasks for run in self.runs)


def tests_by_mode(results: Sequence[RunResult], key: str) -> dict[str, list[Any]]:
    """Test mode -> a value of the scores of each result that has it."""
    modes: dict[str, list[Any]] = {}
    for result in results:
        for mode, score in result.test.items():
            if score.get(key) is not None:
                modes.setdefault(mode, []).append(score[key])
    return modes


def read_groups(folders: Sequence[Path]) -> list[Group]:
    """The groups of runs on one task, then those on several; for errors see `onebit.report.write_report`."""
    return [group for found in find_folders(folders) for group in group_runs(read_runs(found))]


def find_folders(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(run folders, folders of several tasks), without duplicates.

    A folder of runs is replaced by its runs, see `_runs_in`. A folder without any counts as a run folder, which fails
    when it is read.
    """
    found = [run for folder in map(Path, folders) for run in _runs_in(folder) or [folder]]
    paths = {os.path.realpath(path): path for path in found}.values()
    several = [path for path in paths if _has_tasks(path)]
    return [path for path in paths if path not in several], several


def _has_tasks(folder: Path) -> bool:
    return (folder / TABLE_FILE).exists() or bool(task_folders(folder))


def read_runs(folders: Sequence[Path]) -> list[RunResults]:
    """Read folders that `find_folders` found; for errors see `onebit.report.write_report`."""
    depth, names = 0, list[str]()
    while len(set(names)) < len(folders):  # as many parents in front as make the names unique
        depth += 1
        names = ["/".join(Path(os.path.realpath(folder)).parts[-depth:]) for folder in folders]
    return [_read_run(folder, printable(name)) for folder, name in zip(folders, names, strict=True)]


def _runs_in(folder: Path, *, below: str = "*/") -> list[Path]:
    """The runs of a folder that have an epoch or a task: itself, or those in its folders, or in their seeds."""
    metrics = folder / "metrics.jsonl"
    if (metrics.is_file() and metrics.stat().st_size) or (folder / TABLE_FILE).exists():
        return [folder]
    is_one = (folder / "recipe.yaml").exists()
    parts = [path for path in folder.glob("seed-*/" if is_one else below) if path.is_dir()]
    parts.sort(key=lambda path: (path.name.rstrip("0123456789"), len(path.name), path.name))  # seeds by number
    return [run for part in parts for run in _runs_in(part, below="seed-*/")]


def group_runs(runs: Sequence[RunResults]) -> list[Group]:
    """Groups in the order of their first runs; runs without a recipe and unfinished ones are separate groups.

    A seed counts once in a group, since a repeated run would lower the standard deviation.
    """
    members: dict[Any, list[RunResults]] = {}
    repeats: Counter[Any] = Counter()
    for run in runs:
        same = {key: value for key, value in run.settings.items() if key != "seed" and key not in DESCRIPTIVE[1:]}
        alike = (repr(same), run.data) if same and run.finished else (run.name,)
        seed = (alike, repr(run.settings.get("seed")))
        members.setdefault((alike, repeats[seed]), []).append(run)
        repeats[seed] += 1
    groups = [
        Group(printable(first.settings.get("name", first.name), limit=LABEL_LENGTH), (first, *others))
        for first, *others in members.values()
    ]
    labels = [group.label for group in groups]
    return [group if labels.count(group.label) == 1 else _with_clear_label(group, groups) for group in groups]


def differing_settings(groups: Sequence[Group]) -> list[str]:
    """The fields that differ between groups with a recipe; an option that a group does not set is None."""
    known = [group.settings for group in groups if group.settings]
    fields = dict.fromkeys(key for settings in known for key in settings if key not in ("seed", *DESCRIPTIVE))
    return [key for key in fields if len({repr(settings.get(key)) for settings in known}) > 1]


def _with_clear_label(group: Group, groups: Sequence[Group]) -> Group:
    """The group with a label that is unique for its recipe: with one or two settings, or the name of its run."""
    same = [other for other in groups if other.label == group.label]
    differing = differing_settings(same)

    def words(other: Group) -> str:
        return ", ".join(f"{key} {flag_text(other.settings.get(key))}" for key in differing) if other.settings else ""

    suffix = words(group)
    if not suffix or len(differing) > 2 or len(suffix) > LABEL_LENGTH or [*map(words, same)].count(suffix) > 1:
        suffix = " … ".join(dict.fromkeys((group.runs[0].name, group.runs[-1].name)))
    return Group(f"{group.label}, {suffix}", group.runs)


def data_name(groups: Sequence[Group]) -> str:
    """The data sets of the groups; "unnamed data" if a run does not name its own."""
    return ", ".join(dict.fromkeys(printable(group.settings.get("dataset", "unnamed data")) for group in groups))


def _read_run(folder: Path, name: str) -> RunResults:
    recipe, metrics = folder / "recipe.yaml", folder / "metrics.jsonl"
    settings = flatten(merge(Recipe().settings(), read_settings(recipe))) if recipe.exists() else {}
    data = ""
    for path in [folder / DATA_FILE, *sorted(folder.glob(f"*/task-1/{DATA_FILE}"))]:
        with suppress(OSError, ValueError, AttributeError):
            known = read_json(path, largest=MAX_RESULT)
            data = data or str(known.get("digest") or known.get("directory") or "")
    if _has_tasks(folder):
        return RunResults(name, settings, table=read_table(folder / TABLE_FILE), data=data)
    content = read_regular(metrics, largest=MAX_METRICS)
    try:
        lines = content.decode("utf-8").split("\n")
        history = History.from_rows(line for line in lines if line.strip())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{metrics}: damaged ({error})") from None
    if not history.rows:
        raise DataError(f"{folder}: no finished epoch yet")
    found = RunResult.read(folder)
    result = found or RunResult()
    tests = {mode: score for mode, score in result.test.items() if "accuracy" in score}
    weights, are_others = reported_weights(folder, result.sha256)
    if weights is not None and are_others:
        # as while a finished run is trained further
        warnings.warn(f"{folder / RESULT_FILE} belongs to other weights than {weights.name}: left out", stacklevel=2)
        tests = {}
    result = RunResult({**result.values, "test": tests})
    finished = found is not None or history.rows[-1].epoch >= history.rows[-1].epochs
    data = data or result.values.get("note") or ""
    return RunResults(name, settings, history, result, weights, data=data, finished=finished)
