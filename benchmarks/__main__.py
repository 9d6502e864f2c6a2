"""`python -m benchmarks NAME [options]`, in a clone of the repository."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import NoReturn

import onebit
from benchmarks import BENCHMARKS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise onebit.errors.UsageError(f"{message} ({self.prog} --help)")


def run(argv: list[str]) -> None:
    """Measure and print the result.

    Raises:
        UnknownNameError, UsageError: no such benchmark, or options that it does not have.
    """
    if not argv or argv[0] in ("-h", "--help"):
        names = ", ".join(BENCHMARKS)
        print(f"usage: python -m benchmarks NAME [options]\nNAME: {names}; NAME --help lists its options")
        return
    name = argv[0]
    onebit.common.tables.resolve(dict.fromkeys(BENCHMARKS), name, kind="benchmark")
    benchmark = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    summary = (benchmark.__doc__ or "").partition("\n")[0]
    parser = _Parser(prog=f"python -m benchmarks {name}", description=summary, allow_abbrev=False)
    benchmark.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    options = vars(parser.parse_args(argv[1:]))
    as_json = options.pop("json")
    with onebit.common.progress.progress(name, "rounds") as bar:
        result = benchmark.measure(**options, on_round=bar.update)
    print(json.dumps(result, indent=2, default=str) if as_json else benchmark.describe(result))


def main(argv: list[str]) -> int:
    """`run`, whose errors become one line on stderr; returns the exit status."""
    try:
        run(argv)
    except onebit.errors.OnebitError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
