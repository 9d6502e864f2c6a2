"""`python -m benchmarks NAME [options]`, in a clone of the repository."""

from __future__ import annotations

import importlib
import sys

import onebit
from benchmarks import BENCHMARKS
from onebit.cli.main import run_program
from onebit.cli.output import answer, answer_json
from onebit.cli.parsing import Parser


def run(argv: list[str]) -> int:
    """Measure and print the result; returns the exit status.

    Raises:
        UnknownNameError, UsageError: no such benchmark, or options that it does not have.
    """
    if not argv or argv[0] in ("-h", "--help"):
        names = ", ".join(BENCHMARKS)
        answer(f"usage: python -m benchmarks NAME [options]\nNAME: {names}; NAME --help lists its options")
        return 0
    name = argv[0]
    onebit.common.tables.resolve(dict.fromkeys(BENCHMARKS), name, kind="benchmark")
    benchmark = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    summary = (benchmark.__doc__ or "").partition("\n")[0]
    parser = Parser(name, summary)
    parser.prog = f"python -m benchmarks {name}"
    benchmark.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    options = vars(parser.parse_args(argv[1:]))
    as_json = options.pop("json")
    with onebit.common.progress.progress(name, "rounds") as bar:
        result = benchmark.measure(**options, on_round=bar.update)
    if as_json:
        answer_json(result)
    else:
        answer(benchmark.describe(result))
    return 0


def main(argv: list[str]) -> int:
    """`run` as every verb of onebit: errors and Ctrl-C become one line on stderr."""
    return run_program(run, argv, name="python -m benchmarks")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
