"""`onebit report`."""

from __future__ import annotations

from pathlib import Path

from onebit.cli.output import answer, answer_json
from onebit.cli.parsing import Parser


def parser() -> Parser:
    made = Parser(
        "report",
        "Curves of error, loss and time, of mean IoU, and of accuracy on several tasks; weight histograms, and a "
        "comparison of runs, as pictures and one page.",
        "json",
    )
    made.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folder, or folder of several tasks, of --seeds, or of such folders",
    )
    made.add_argument("-o", "--output", required=True, metavar="DIR")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    from onebit.report import compare_runs, compare_tasks, read_groups, report_tables, write_report

    runs = [Path(run) for run in args.runs]
    files = write_report(runs, Path(args.output))
    if args.json:
        tasks = compare_tasks(runs)
        values = {"files": [str(file) for file in files], "rows": compare_runs(runs)}
        answer_json(values | ({"tasks": tasks} if tasks else {}))
        return 0
    for table in report_tables(*read_groups(runs)):
        answer(f"{table.heading}:\n{table}\n")
    for file in files:
        answer(str(file))
    return 0
