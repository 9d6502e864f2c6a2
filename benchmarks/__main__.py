"""`python -m benchmarks NAME [options]`, in a clone of the repository."""

from __future__ import annotations

import importlib
import sys

from benchmarks import BENCHMARKS
from onebit.cli.main import run_program
from onebit.cli.output import answer, answer_json
from onebit.cli.parsing import Parser, add_json
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError


def run(argv: list[str]) -> int:
    names = ", ".join(BENCHMARKS)
    if not argv or argv[0] in ("-h", "--help"):
        answer(f"usage: python -m benchmarks NAME [options]\nNAME: {names}; NAME --help lists its options")
        return 0
    name = argv[0]
    if name not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {name!r}{did_you_mean(name, BENCHMARKS)}; one of: {names}")
    benchmark = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    parser = Parser(name, (benchmark.__doc__ or "").partition("\n")[0])
    parser.prog = f"python -m benchmarks {name}"
    benchmark.add_options(parser)
    add_json(parser)
    options = vars(parser.parse(argv[1:]))
    as_json = options.pop("json")
    result = benchmark.measure(**options)
    if as_json:
        answer_json(result)
    else:
        answer(benchmark.describe(result))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(run, sys.argv[1:], name="python -m benchmarks"))
