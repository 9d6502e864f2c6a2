"""`onebit report`."""

from __future__ import annotations

from pathlib import Path

from onebit.cli.output import answer, answer_json
from onebit.cli.parsing import Parser, add_json


def main(argv: list[str]) -> int:
    parser = Parser(
        "report",
        "Curves of error, loss and time, weight histograms, and a comparison of runs, as pictures and one page.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    add_json(parser)
    args = parser.parse(argv)
    from onebit.report import write_report

    files = write_report([Path(run) for run in args.runs], Path(args.output))
    if args.json:
        answer_json({"files": [str(file) for file in files]})
    else:
        for file in files:
            answer(str(file))
    return 0
