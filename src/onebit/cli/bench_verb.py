"""`onebit bench`: the speed of a packed net on this machine. Loads no torch."""

from __future__ import annotations

from typing import Any

from onebit.cli.output import answer_either, progress
from onebit.cli.parsing import NET_HELP, Parser, thread_number, whole_number
from onebit.common.text import size, table


def parser() -> Parser:
    description = (
        "Time onebit.run of a packed net on this machine, with each instruction set and in numpy; of a language model "
        "in a GGUF file a prompt and its continuation."
    )
    made = Parser("bench", description, "json")
    made.add_argument("net", metavar="NET", help=f"{NET_HELP}; or FILE.gguf")
    count = whole_number(1)
    made.add_argument("--batches", type=count, nargs="+", default=[1, 64], metavar="N", help="batch sizes (1 64)")
    made.add_argument("--rounds", type=count, default=11, metavar="N", help="timed rounds (11)")
    made.add_argument("--seconds", type=float, default=0.02, help="least time per variant and round (0.02)")
    made.add_argument("--threads", type=thread_number, default=1, metavar="N", help="CPU threads (1)")
    made.add_argument("--prompt", type=count, default=64, metavar="N", help="tokens of a prompt (64)")
    made.add_argument("--tokens", type=count, default=24, metavar="N", help="tokens after it (24)")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    if args.net.lower().endswith(".gguf"):
        return _language_model(args)
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


def _language_model(args: Any) -> int:
    from onebit.language import load_language_model
    from onebit.language.timing import time_language_model

    model = load_language_model(args.net, threads=args.threads, context=args.prompt + args.tokens)
    asked = {"prompt": args.prompt, "tokens": args.tokens}
    with progress(args.net, "rounds") as bar:
        found = time_language_model(model, **asked, rounds=args.rounds, on_round=bar.update)
    found = {"net": args.net, "threads": args.threads, **asked, **found}
    share = found["generated_per_s"] / found["limit_per_s"]
    resident = "" if found["resident"] is None else f", {size(found['resident'])} resident"
    threads = f"{args.threads} thread{'' if args.threads == 1 else 's'}, medians of {args.rounds} rounds"
    text = (
        f"{args.net}, {threads}: prompt of {args.prompt} tokens {found['prompt_per_s']:,.1f} tokens/s, "
        f"generation {found['generated_per_s']:,.1f} tokens/s\n"
        f"{size(found['token_bytes'])} of weights a token{resident}; one thread reads "
        f"{found['bytes_per_s'] / 1e9:.1f} GB/s, which would be {found['limit_per_s']:,.0f} tokens/s: "
        f"generation is at {100 * share:.0f} % of it"
    )
    answer_either(found, text, as_json=args.json)
    return 0
