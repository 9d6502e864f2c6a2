"""`python -m benchmarks NAME [options]`, in a clone of the repository."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from benchmarks import BENCHMARKS
from benchmarks.shared import machine, table


def main(argv: Sequence[str]) -> int:
    """Measure and print the result; returns the exit status."""
    if not argv or argv[0] not in BENCHMARKS:
        print(f"usage: python -m benchmarks NAME [options]\nNAME: {', '.join(BENCHMARKS)}; NAME --help lists options")
        return 0 if not argv or argv[0] in ("-h", "--help") else 2
    name, *words = argv
    benchmark = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    options = vars(parser.parse_args(words))
    as_json = options.pop("json")
    measured = benchmark.measure(**options)
    result = {"benchmark": name, "machine": machine(), "settings": options, **measured}
    if as_json:
        print(json.dumps(result))
        return 0
    print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    print(table(result.pop("rows"), benchmark.COLUMNS))
    for key in measured.keys() - {"rows"}:
        print(f"{key}: {json.dumps(measured[key], indent=1, ensure_ascii=False)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
