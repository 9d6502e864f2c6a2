"""Run folders, read and checked without torch; finished runs that differ only in the seed form one group."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from onebit.common.files import read_json, read_regular
from onebit.common.text import NetSize
from onebit.errors import DataError, FormatError
from onebit.recipe import DESCRIPTIVE, Recipe, flag_text, flatten, merge, read_settings
from onebit.report.wording import printable
from onebit.runs.result import RunResult
from onebit.train.history import (
    DATA_FILE,
    MOST_METRICS,
    MOST_RESULT,
    RESULT_FILE,
    TABLE_FILE,
    History,
    reported_weights,
    task_folders,
)

LABEL_LENGTH = 60


@dataclass(frozen=True)
class Training:
    """A run of one task or of several.

    name: the folder's name, unique in a report.
    settings: every recipe field by its flag name ("optimizer.lr"); empty without a recipe.yaml.
    data: identifies the data among others of the same name; "" if unknown.
    finished: whether its results may be averaged with those of other seeds.
    """

    name: str
    settings: dict[str, Any]
    data: str = field(default="", kw_only=True)
    finished: bool = field(default=True, kw_only=True)


@dataclass(frozen=True)
class RunResults(Training):
    """The contents of one run folder.

    tests: test mode -> its scores; empty while the run is not finished.
    seconds: of the whole run, from result.json or summed over epochs.
    size, classes: from result.json.
    weights: best.safetensors, else final.safetensors, else None.
    """

    history: History
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    weights: Path | None = None
    size: NetSize | None = None
    classes: tuple[str, ...] = ()


T = TypeVar("T", bound=Training)


@dataclass(frozen=True)
class Group(Generic[T]):
    """Finished runs of one recipe on the same data with different seeds, or a single run.

    `label` is unique in a report.
    """

    label: str
    runs: tuple[T, ...]

    @property
    def settings(self) -> dict[str, Any]:
        return self.runs[0].settings


def tests_by_mode(runs: Sequence[RunResults], key: str) -> dict[str, list[Any]]:
    """Test mode -> a value of the scores of each run that was tested in it."""
    modes: dict[str, list[Any]] = {}
    for run in runs:
        for mode, score in run.tests.items():
            if score.get(key) is not None:
                modes.setdefault(mode, []).append(score[key])
    return modes


def find_folders(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(run folders, folders of several tasks), without duplicates.

    A folder of runs is replaced by its runs, see `_runs_in`. A folder without any counts as a run folder, which fails
    when it is read.
    """
    found = [run for folder in map(Path, folders) for run in _runs_in(folder) or [folder]]
    paths = {os.path.realpath(path): path for path in found}.values()
    several = [path for path in paths if (path / TABLE_FILE).exists() or task_folders(path)]
    return [path for path in paths if path not in several], several


def read_runs(folders: Sequence[Path]) -> list[RunResults]:
    """Read run folders, as found by `find_folders`; for errors see `onebit.report.write_report`."""
    return [_read_run(folder, name) for folder, name in zip(folders, unique_names(folders), strict=True)]


def _runs_in(folder: Path, *, below: str = "*/") -> list[Path]:
    """The runs of a folder that have an epoch or a task: itself, or those in its folders, or in their seeds."""
    metrics = folder / "metrics.jsonl"
    if (metrics.is_file() and metrics.stat().st_size) or (folder / TABLE_FILE).exists():
        return [folder]
    is_one = (folder / "recipe.yaml").exists()
    parts = [path for path in folder.glob("seed-*/" if is_one else below) if path.is_dir()]
    parts.sort(key=lambda path: (path.name.rstrip("0123456789"), len(path.name), path.name))  # seeds by number
    return [run for part in parts for run in _runs_in(part, below="seed-*/")]


def group_runs(runs: Sequence[T]) -> list[Group[T]]:
    """Groups in the order of their first runs; runs without a recipe and unfinished ones are separate groups.

    A seed counts once in a group, since a repeated run would lower the standard deviation.
    """
    members: dict[Any, list[T]] = {}
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


def differing_settings(groups: Sequence[Group[Any]]) -> list[str]:
    """The fields that differ between groups with a recipe; an option that a group does not set is None."""
    known = [group.settings for group in groups if group.settings]
    fields = dict.fromkeys(key for settings in known for key in settings if key not in ("seed", *DESCRIPTIVE))
    return [key for key in fields if len({repr(settings.get(key)) for settings in known}) > 1]


def _with_clear_label(group: Group[T], groups: Sequence[Group[T]]) -> Group[T]:
    """The group with a label that is unique for its recipe: with one or two settings, or the name of its run."""
    same = [other for other in groups if other.label == group.label]
    differing = differing_settings(same)

    def words(other: Group[T]) -> str:
        return ", ".join(f"{key} {flag_text(other.settings.get(key))}" for key in differing) if other.settings else ""

    suffix = words(group)
    if not suffix or len(differing) > 2 or len(suffix) > LABEL_LENGTH or [*map(words, same)].count(suffix) > 1:
        suffix = " … ".join(dict.fromkeys((group.runs[0].name, group.runs[-1].name)))
    return Group(f"{group.label}, {suffix}", group.runs)


def data_name(groups: Sequence[Group[Any]]) -> str:
    """The data sets of the groups; "unnamed data" if a run does not name its own."""
    return ", ".join(dict.fromkeys(printable(group.settings.get("dataset", "unnamed data")) for group in groups))


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Names of different folders, with as many parents in front as make them unique."""
    depth, names = 0, list[str]()
    while len(set(names)) < len(folders):
        depth += 1
        names = ["/".join(Path(os.path.realpath(folder)).parts[-depth:]) for folder in folders]
    return [printable(name) for name in names]


def _read_run(folder: Path, name: str) -> RunResults:
    history, settings = _read_metrics(folder), flat_settings(folder)
    found = RunResult.read(folder)
    result = found or RunResult({})
    tests = {mode: score for mode, score in result.test.items() if "accuracy" in score}
    weights, are_others = reported_weights(folder, result.sha256)
    if weights is not None and are_others:
        # as while a finished run is trained further
        warnings.warn(f"{folder / RESULT_FILE} belongs to other weights than {weights.name}: left out", stacklevel=2)
        tests = {}
    last = history.rows[-1]
    return RunResults(
        name,
        settings,
        history,
        tests,
        history.seconds if result.seconds is None else result.seconds,
        weights,
        result.size,
        result.classes,
        data=data_of(folder, note=result.values.get("note")),
        finished=last.epoch >= last.epochs or found is not None,
    )


def data_of(folder: Path, *, note: str | None = None) -> str:
    """What identifies the data of a run: their digest, else their directory or the note on them."""
    for path in [folder / DATA_FILE, *sorted(folder.glob(f"*/task-1/{DATA_FILE}"))]:
        try:
            known = read_json(path, largest=MOST_RESULT)
            found = known.get("digest") or known.get("directory")
        except (OSError, ValueError, AttributeError):
            continue
        if found:
            return str(found)
    return note or ""


def flat_settings(folder: Path) -> dict[str, Any]:
    """Every recipe field by its flag name, from the folder's recipe.yaml; empty without one."""
    if not (folder / "recipe.yaml").exists():
        return {}
    return flatten(merge(Recipe().settings(), read_settings(folder / "recipe.yaml")))


def _read_metrics(folder: Path) -> History:
    path = folder / "metrics.jsonl"
    content = read_regular(path, largest=MOST_METRICS)
    try:
        lines = content.decode("utf-8").split("\n")
        history = History.from_rows(line for line in lines if line.strip())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged ({error})") from None
    if not history.rows:
        raise DataError(f"{folder}: no finished epoch yet")
    return history
