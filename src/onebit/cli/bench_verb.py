"""`onebit bench`."""

from __future__ import annotations

import importlib

from onebit.benchmarks import BENCHMARKS
from onebit.cli.output import answer, answer_json
from onebit.cli.parsing import Parser, add_json
from onebit.tables import resolve

DEFAULT = "training-step"


def main(argv: list[str]) -> int:
    parser = Parser("bench", f"Speed, measured here and now. NAME: {', '.join(BENCHMARKS)} (default: {DEFAULT}).")
    parser.usage = "onebit bench [NAME] [options]        onebit bench NAME --help for its options"
    named = bool(argv) and not argv[0].startswith("-")
    if not named and ("-h" in argv or "--help" in argv):
        answer(parser.format_help().rstrip())
        return 0
    name, rest = (argv[0], argv[1:]) if named else (DEFAULT, argv)
    benchmark = importlib.import_module(resolve(BENCHMARKS, name, kind="benchmark"))
    parser = Parser(f"bench {name}", (benchmark.__doc__ or "").partition("\n")[0])
    benchmark.add_options(parser)
    add_json(parser)
    options = vars(parser.parse(rest))
    as_json = options.pop("json")
    result = benchmark.measure(**options)
    if as_json:
        answer_json(result)
    else:
        answer(benchmark.describe(result))
    return 0
