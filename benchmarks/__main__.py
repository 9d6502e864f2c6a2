"""`python -m benchmarks NAME [options]`, in a clone of the repository."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

import torch

from benchmarks import BENCHMARKS
from benchmarks.shared import Clock, machine
from onebit.common import text
from onebit.common.fields import read
from onebit.common.memory import keep_freed_memory


def add_flags(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """A flag for each argument of a function, which has its help in "Args" of the docstring; lists are "a,b".

    One without a default is a list of words without a flag. A clock, whose docstring is used too, has a flag a field.
    """
    helps = dict(re.findall(r"^ +(\w+): (.+)$", f"{Clock.__doc__}{function.__doc__}", re.MULTILINE))
    hints = get_type_hints(function)
    for name, argument in inspect.signature(function).parameters.items():
        if name == "clock":
            add_flags(parser, Clock)
            parser.set_defaults(**vars(argument.default))
        elif argument.default is argument.empty:
            parser.add_argument(name, nargs="+", help=helps[name])
        elif argument.default is False:
            parser.add_argument(f"--{name}", action="store_true", help=helps[name])
        else:
            kind: Any = partial(read, hint=hints[name], name=name)
            parser.add_argument(f"--{name}", type=kind, default=argument.default, help=f"{helps[name]} (%(default)s)")


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
    add_flags(parser, benchmark.measure)
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    settings = vars(parser.parse_args(words))
    as_json, options = settings.pop("json"), dict(settings)
    torch.set_num_threads(settings.get("threads", 1))
    keep_freed_memory()  # as training does
    if "clock" in inspect.signature(benchmark.measure).parameters:
        options["clock"] = Clock(**{field: options.pop(field) for field in vars(Clock())})
    rows, facts = list(benchmark.measure(**options)), machine()
    if as_json:
        print(json.dumps({"benchmark": name, "machine": facts, "settings": settings, "rows": rows}))
        return 0
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(rows, benchmark.COLUMNS))
    for details in (value for row in rows for value in row.values() if isinstance(value, dict)):
        print(json.dumps(details, indent=1, ensure_ascii=False))
    return 0


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as text; `columns`: key of a row -> format of its values. Columns without a value are left out."""
    shown = {key: form for key, form in columns.items() if any(row.get(key) is not None for row in rows)}
    cells = [["" if row.get(key) is None else format(row[key], form) for key, form in shown.items()] for row in rows]
    numbers = [i for i, form in enumerate(shown.values()) if form]
    return text.table([[key.replace("_", " ") for key in shown], *cells], right=numbers, width=200)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
