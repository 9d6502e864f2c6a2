"""`onebit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onebit.cli.output import answer, answer_json
from onebit.cli.parsing import Parser
from onebit.common.text import NetSize, size, table


def main(argv: list[str]) -> int:
    parser = Parser(
        "report",
        "Curves of error, loss and time, of mean IoU, and of accuracy on several tasks; weight histograms, and a "
        "comparison of runs, as pictures and one page.",
        "json",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folder, or folder of several tasks, of --seeds, or of such folders",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    args = parser.parse(argv)
    from onebit.report import compare_runs, compare_tasks, read_groups, write_report
    from onebit.report.mask_scores import mask_rows
    from onebit.report.outcome import table_heading
    from onebit.report.tasks import group_rows

    runs = [Path(run) for run in args.runs]
    files = write_report(runs, Path(args.output))
    rows = compare_runs(runs)
    if args.json:
        tasks = compare_tasks(runs)
        answer_json({"files": [str(file) for file in files], "rows": rows} | ({"tasks": tasks} if tasks else {}))
        return 0
    groups, learned = read_groups(runs)
    if rows:
        answer(_comparison(rows))
    if masks := mask_rows(groups):
        head = ["recipe", "images", "weights", "mean IoU", "Dice"]
        answer(table([head, *([row.label, row.split, row.weights, *row.cells] for row in masks)], right=(3, 4)))
    for group in learned:
        answer(f"{group.label}: {table_heading(run.settings.get('seed', '?') for run in group.runs)}")
        for row in group_rows(group):
            answer(str(row))
    for file in files:
        answer(str(file))
    return 0


def _comparison(rows: list[dict[str, Any]]) -> str:
    """The comparison as a table: a row for each recipe, a column for each test mode."""
    from onebit.report.wording import MISSING, duration, number_range, percent

    modes = list(dict.fromkeys(mode for row in rows for mode in row["test"]))
    head = ["recipe", "binary weights", "packed size", *(f"test accuracy, {mode}" for mode in modes)]
    head += ["validation accuracy", "runs", "epochs", "time"]
    lines = [
        [
            row["label"],
            *([NetSize(**net).share, size(net["bytes"])] if (net := row["size"]) else [MISSING, MISSING]),
            *(
                percent(found["accuracies"]) if found else MISSING
                for found in (*(row["test"].get(mode) for mode in modes), row["validation"])
            ),
            str(len(row["runs"])),
            number_range(row["epochs"])
            + ("" if row["finished"] else f" of {number_range(row['planned_epochs'])}, unfinished"),
            duration([row["seconds"]]),
        ]
        for row in rows
    ]
    return table([head, *lines], right=tuple(range(1, len(head))))
