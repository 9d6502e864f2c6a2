"""`onebit bench`: the speed of a packed net on this machine. Loads no torch."""

from __future__ import annotations

import os
from typing import Any

from onebit.cli.output import answer_either, say, table
from onebit.cli.parsing import NET_HELP, Parser, thread_number, whole_number
from onebit.errors import UsageError

OWN_BENCHMARKS = (
    *("augmentation", "kernels", "mnist-time", "nets", "packed-layers", "startup", "training-memory", "training-step"),
)
"""Benchmarks of onebit itself: `onebit bench NAME` says how to run them in its repository."""


def main(argv: list[str]) -> int:
    parser = Parser(
        "bench",
        "The speed of onebit.run of a packed net on this machine, with each instruction set and in numpy.",
        "json",
    )
    parser.add_argument("net", metavar="NET", help=NET_HELP)
    count = whole_number(1)
    parser.add_argument("--batches", type=count, nargs="+", default=[1, 64], metavar="N", help="images at once (1 64)")
    parser.add_argument("--rounds", type=count, default=11, metavar="N", help="timed rounds (11)")
    parser.add_argument("--seconds", type=float, default=0.02, help="per variant and round, at least (0.02)")
    parser.add_argument("--threads", type=thread_number, default=1, metavar="N", help="of the native library (1)")
    args = parser.parse(argv)
    if args.net in OWN_BENCHMARKS:
        raise UsageError(
            f"bench takes a packed net; in a clone of onebit, `python -m benchmarks {args.net}` runs that one"
        )
    for library in ("OMP", "OPENBLAS", "MKL"):  # NumPy takes one thread, if they are set before it is loaded
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    from onebit.packed import load
    from onebit.runtime.timing import time_packed

    rows = time_packed(load(args.net), args.batches, rounds=args.rounds, seconds=args.seconds, threads=args.threads)
    if len(rows) == len(args.batches):
        say("note: numpy alone is timed: the native library is missing, switched off, or does not run this net")
    facts = {"net": args.net, "threads": args.threads, "rounds": args.rounds, "rows": rows}
    answer_either(facts, _describe(rows, args), as_json=args.json)
    return 0


def _describe(rows: list[dict[str, Any]], args: Any) -> str:
    cells = [["batch", "variant", "µs", "µs an image", "× numpy"]]
    cells += [
        [
            str(row["batch"]),
            row["variant"],
            f"{row['us']:,.1f}",
            f"{row['us'] / row['batch']:,.1f}",
            f"{row['numpy_speedup']:.1f}",
        ]
        for row in rows
    ]
    threads = f"{args.threads} thread{'' if args.threads == 1 else 's'}"
    head = f"{args.net}, {threads}: medians of {args.rounds} rounds; all variants give the same logits"
    return f"{head}\n{table(cells, right=(0, 2, 3, 4))}"
