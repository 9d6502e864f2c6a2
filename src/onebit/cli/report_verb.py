"""`onebit report`."""

from __future__ import annotations

from pathlib import Path

from onebit.cli.output import answer_either
from onebit.cli.parsing import Parser


def parser() -> Parser:
    made = Parser("report", "Curves, weight histograms and a comparison of runs, as pictures and one page.", "json")
    what = "run folder, folder of tasks or of --seeds, or folder of such folders"
    made.add_argument("runs", metavar="RUN", nargs="+", help=what)
    made.add_argument("-o", "--output", required=True, metavar="DIR")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    from onebit.report import read_groups, report_tables, write_groups
    from onebit.report.tables import run_numbers, task_numbers

    groups, several = read_groups([Path(run) for run in args.runs])
    files = write_groups(groups, several, Path(args.output))
    tasks = [task_numbers(group) for group in several]
    values = {"files": [str(file) for file in files], "rows": [run_numbers(group) for group in groups]}
    tables = [f"{table}\n" for table in report_tables(groups, several)]
    text = "\n".join([*tables, *map(str, files)])
    answer_either(values | ({"tasks": tasks} if tasks else {}), text, as_json=args.json)
    return 0
