"""The page: one self-contained HTML file with the comparison, the pictures and the settings that differ."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

from onebit._version import __version__
from onebit.common.files import OWN
from onebit.common.text import size
from onebit.report.drawing import Picture
from onebit.report.mask_scores import mask_rows
from onebit.report.run_folders import (
    Group,
    RunResults,
    TestScore,
    data_name,
    differing_settings,
    size_of,
    tests_by_mode,
)
from onebit.report.tasks import NORMS, TaskRun, group_rows
from onebit.report.wording import MISSING, duration, number_range, percent, printable, setting

# whatever a hostile name injects is neither run nor fetched
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
CSS = """
:root { color-scheme: light dark; --ink: #1d2125; --soft: #5c6670; --line: #d8dde2; --back: #fff;
  --raised: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #9aa5b0; --line: #3a424a; --back: #16191d; --raised: #20252a; }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p, figcaption, .note { color: var(--soft); max-width: 48rem; overflow-wrap: anywhere; }
.note { font-size: .8rem; font-weight: 400; white-space: normal; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .45rem 1rem .45rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; max-width: 22rem; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--line); font-weight: 600; }
tbody th { font-weight: 600; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
td.number .note { display: inline-block; max-width: 10.5rem; }
table.compared { width: 100%; font-size: .85rem; }
table.compared th:first-child { min-width: 10rem; }
table.compared td:nth-child(2), table.compared td:nth-child(2) .note { white-space: nowrap; }
figure { margin: 0 0 1.5rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
figcaption { font-size: .85rem; margin-top: .4rem; }
details { margin: .5rem 0; background: var(--raised); border-radius: 6px; padding: .5rem .9rem; }
summary { cursor: pointer; font-weight: 600; }
details table { margin: .5rem 0; }
footer { margin-top: 3rem; font-size: .8rem; color: var(--soft); }
"""


def render_page(
    groups: Sequence[Group[RunResults]], several: Sequence[Group[TaskRun]], pictures: Sequence[Picture]
) -> bytes:
    """The page as UTF-8.

    Args:
        groups: training runs of one task, one row each. several: of several tasks, one table each.
        pictures: (heading, PNG file, caption) in the order of the page; consecutive equal headings are printed once.
    """
    every: list[Group[Any]] = [*groups, *several]
    runs = sum(len(group.runs) for group in every)
    title = every[0].label if len(every) == 1 else f"Comparison of {len(every)} recipes"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{runs} run{'s' if runs > 1 else ''} on {escape(data_name(every))}</p>",
        *(_comparison(groups) if groups else []),
        *_masks(groups),
        *(part for group in several for part in _tasks(group)),
        *_figures(pictures),
        *_settings(every),
        f"<footer>Written by onebit {escape(__version__)}.</footer>",
    ]
    head = (
        f'<!DOCTYPE html>\n<!-- {OWN.decode()} -->\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} – onebit report</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
    )
    return (head + "\n".join(body) + "\n</body>\n</html>\n").encode("utf-8", "replace")


def _comparison(groups: Sequence[Group[RunResults]]) -> list[str]:
    """A row per group, a column per test mode of any run."""
    modes = list(tests_by_mode([run for group in groups for run in group.runs]))
    header = [*_heads("recipe", "method", "seeds"), *_heads("epochs", number=True)]
    header += [_cell("validation accuracy", "best epoch", head=True, number=True)]
    header += [_cell("test accuracy", f"{mode} weights", head=True, number=True) for mode in modes]
    header += _heads("binary weights", "packed size", "training time", "parameters", number=True)
    notes = "Each test accuracy names its test mode: the weights that were evaluated."
    if not modes:
        notes = "No run has been tested yet: there is no result.json."
    if any(len(group.runs) > 1 for group in groups):
        notes += " ± is the sample standard deviation (n − 1) over the seeds of a row."
    if len(groups) > 1:
        notes += " A row has finished runs on the same data with different seeds."
    table = _table(header, [[_row(group, modes) for group in groups]], kind=' class="compared"')
    return [f"<h2>{'Result' if len(groups) == 1 else 'Comparison'}</h2>", table, f"<p>{notes}</p>"]


def _row(group: Group[RunResults], modes: Sequence[str]) -> list[str]:
    runs, tests, seeds = group.runs, tests_by_mode(group.runs), ", ".join(group.seeds) or MISSING
    net = size_of(group)
    done, planned = (number_range([getattr(run.history.rows[-1], n) for run in runs]) for n in ("epoch", "epochs"))
    parameters = sorted({f"{run.parameters:,}" for run in runs if run.parameters is not None})
    return [
        _cell(group.label, ", ".join(run.name for run in runs if run.name != group.label), head=True),
        _cell(*_method(group)),
        _cell(seeds) if len(runs) == 1 else _cell(f"{len(runs)}", seeds),
        _cell(done if done == planned else f"{done} of {planned}", "" if group.finished else "unfinished", number=True),
        _cell(*_validation(group), number=True),
        *(_cell(*_test(tests.get(mode, []), len(runs)), number=True) for mode in modes),
        _cell(net.share if net else MISSING, number=True),
        _cell(size(net.bytes) if net else MISSING, number=True),
        _cell(duration([run.seconds for run in runs]), number=True),
        _cell(", ".join(parameters) or MISSING, number=True),
    ]


def _method(group: Group[RunResults]) -> tuple[str, str]:
    if not group.settings:
        return MISSING, ""
    weights, inputs = (printable(group.settings[f"model.{kind}_quantizer"] or "real") for kind in ("weight", "input"))
    return f"{weights} weights", f"{inputs} inputs"


def _validation(group: Group[RunResults]) -> tuple[str, str]:
    best = [run.history.best for run in group.runs]
    errors = [row.validation_error for row in best if row.validation_error is not None]
    modes = " and ".join(sorted({row.validation_weights for row in best}))
    note = f"{modes} weights, epoch {number_range([row.epoch for row in best])}"
    return (percent([1 - error for error in errors]), note) if errors else (MISSING, "")


def _test(scores: Sequence[TestScore], runs: int) -> tuple[str, str]:
    if not scores:
        return MISSING, ""
    notes = []
    if len(scores) == 1 and scores[0].correct is not None and scores[0].count is not None:
        notes.append(f"{scores[0].correct:,} of {scores[0].count:,}")
    if len(scores) < runs:
        notes.append(f"{len(scores)} of {runs} runs")
    if any(score.bn == "reestimate" for score in scores):
        notes.append("BatchNorm re-estimated")
    return percent([score.accuracy for score in scores]), "; ".join(notes)


def _masks(groups: Sequence[Group[RunResults]]) -> list[str]:
    """Mean IoU and Dice: a row for the validation of each group, and for each test mode."""
    header = [*_heads("recipe", "images", "weights"), *_heads("mean IoU", "Dice", number=True)]
    rows = [
        [_cell(row.label, head=True), _cell(row.split), _cell(row.weights, row.note)]
        + [_cell(text, number=True) for text in row.cells]
        for row in mask_rows(groups)
    ]
    notes = (
        "Means over the classes; pixels are counted over all images first. The epoch with the highest mean IoU on the "
        "validation images is the one that is tested."
    )
    return ["<h2>Masks</h2>", _table(header, [rows]), f"<p>{notes}</p>"] if rows else []


def _tasks(group: Group[TaskRun]) -> list[str]:
    """The accuracy on every task after every task."""
    tasks = max(run.table.tasks for run in group.runs)
    columns = ("after task", *(f"task {seen}" for seen in range(1, tasks + 1)), "mean")
    header = [*_heads("method", "weights"), *_heads(*columns, number=True)]
    bodies = []
    for (method, weights, bn), rows in groupby(group_rows(group), key=attrgetter("method", "weights", "bn")):
        body = []
        for row in rows:
            texts = [str(row.task), *map(percent, row.accuracies), *[""] * (tasks - row.task), percent(row.means)]
            body.append([_cell(text, number=True) for text in texts])
        body[0][:0] = [_cell(method, head=True, rows=len(body)), _cell(weights, NORMS[bn], rows=len(body))]
        bodies.append(body)
    done = ", ".join(f"{run.name} ({duration([run.table.seconds])})" for run in group.runs)
    notes = "Test accuracy on each task, under its own permutation, after each task; the mean is over the tasks so far."
    if len(group.runs) > 1:
        notes += " ± is the sample standard deviation over the seeds."
    return [
        f"<h2>Continual learning: {escape(group.label)}</h2>",
        _table(header, bodies),
        f"<p>{notes} Seed {escape(', '.join(group.seeds) or MISSING)}; {escape(done)}.</p>",
    ]


def _cell(text: str, note: str = "", *, head: bool = False, number: bool = False, rows: int = 1) -> str:
    tag = "th" if head else "td"
    kind = (' class="number"' if number else "") + (f' rowspan="{rows}"' if rows > 1 else "")
    small = f'<br><span class="note">{escape(printable(note))}</span>' if note else ""
    return f"<{tag}{kind}>{escape(text)}{small}</{tag}>"


def _heads(*texts: str, number: bool = False) -> list[str]:
    return [_cell(text, head=True, number=number) for text in texts]


def _table(header: Sequence[str], bodies: Sequence[Sequence[Sequence[str]]], *, kind: str = "") -> str:
    """A table from cells: a header row, if any, and bodies of rows."""
    head = f"\n<thead><tr>{''.join(header)}</tr></thead>\n" if header else ""
    lines = ("".join(f"<tr>{''.join(cells)}</tr>\n" for cells in rows) for rows in bodies)
    body = "".join(f"<tbody>\n{rows}</tbody>" for rows in lines)
    return f'<div class="scroll"><table{kind}>{head}{body}</table></div>'


def _figures(pictures: Sequence[Picture]) -> list[str]:
    parts: list[str] = []
    for heading, same in groupby(pictures, key=itemgetter(0)):
        parts.append(f"<h2>{escape(heading)}</h2>")
        for _, path, caption in same:
            data, text = base64.b64encode(path.read_bytes()).decode("ascii"), escape(caption)
            image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
            parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return parts


def _settings(groups: Sequence[Group[Any]]) -> list[str]:
    """The settings that differ side by side, then all settings of each group in a closed section."""

    def table(keys: Iterable[str], columns: Sequence[Group[Any]], header: Sequence[str] = ()) -> str:
        rows = [[_cell(key, head=True), *(_cell(_value(group, key)) for group in columns)] for key in keys]
        return _table(_heads(*header), [rows])

    parts = []
    if len(groups) > 1:
        differing = differing_settings(groups)
        labels = ["setting", *(group.label for group in groups)]
        parts.append("<h2>Settings that differ</h2>")
        parts.append(table(differing, groups, labels) if differing else "<p>None in the recipes.</p>")
    if known := [group for group in groups if group.settings]:
        parts.append("<h2>All settings</h2>")
    for group in known:
        values = table(group.settings, [group])
        parts.append(f"<details><summary>{escape(group.label)}</summary>{values}</details>")
    return parts


def _value(group: Group[Any], key: str) -> str:
    if key == "seed" and len(group.runs) > 1:
        return ", ".join(group.seeds)
    return setting(group.settings[key]) if key in group.settings else MISSING
