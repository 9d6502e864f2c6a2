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
    from onebit.report import read_groups, report_numbers, report_tables, write_groups

    groups = read_groups([Path(run) for run in args.runs])
    files = [str(file) for file in write_groups(groups, Path(args.output))]
    text = "\n".join([*(f"{table}\n" for table in report_tables(groups)), *files])
    answer_either({"files": files, **report_numbers(groups)}, text, as_json=args.json)
    return 0
