"""`onebit bench`: the speed of a packed net on this machine. Loads no torch."""

from __future__ import annotations

from typing import Any

from onebit.cli.output import answer_either, progress
from onebit.cli.parsing import NET_HELP, Parser, thread_number, whole_number
from onebit.common.text import table


def parser() -> Parser:
    description = "Time onebit.run of a packed net on this machine, with each instruction set and in numpy."
    made = Parser("bench", description, "json")
    made.add_argument("net", metavar="NET", help=NET_HELP)
    count = whole_number(1)
    made.add_argument("--batches", type=count, nargs="+", default=[1, 64], metavar="N", help="batch sizes (1 64)")
    made.add_argument("--rounds", type=count, default=11, metavar="N", help="timed rounds (11)")
    made.add_argument("--seconds", type=float, default=0.02, help="least time per variant and round (0.02)")
    made.add_argument("--threads", type=thread_number, default=1, metavar="N", help="CPU threads (1)")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    from onebit.packed import load
    from onebit.runtime.timing import time_packed

    net = load(args.net)
    numbers = {"rounds": args.rounds, "seconds": args.seconds, "threads": args.threads}
    rows: list[dict[str, Any]] = []
    for batch in args.batches:
        with progress(f"{args.net}, batch {batch}", "rounds") as bar:
            rows += time_packed(net, batch, on_round=bar.update, **numbers)
    facts = {"net": args.net, "threads": args.threads, "rounds": args.rounds, "rows": rows}
    cells = [["batch", "variant", "µs", "µs a sample", "× numpy"]]
    for row in rows:
        microseconds = (f"{row['us'] / count:,.1f}" for count in (1, row["batch"]))
        cells.append([str(row["batch"]), row["variant"], *microseconds, f"{row['numpy_speedup']:.1f}"])
    threads = f"{args.threads} thread{'' if args.threads == 1 else 's'}"
    head = f"{args.net}, {threads}: medians of {args.rounds} rounds; all variants give the same logits"
    answer_either(facts, f"{head}\n{table(cells, right=(0, 2, 3, 4))}", as_json=args.json)
    return 0
