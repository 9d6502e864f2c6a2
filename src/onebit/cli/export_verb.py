"""`onebit export`."""

from __future__ import annotations

from onebit.cli.output import answer, answer_json, say, set_threads, size
from onebit.cli.parsing import Parser, add_json, add_run, output_path
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError
from onebit.export import EXPORTS


def main(argv: list[str]) -> int:
    parser = Parser("export", "Write a trained net for other software.")
    add_run(parser)
    targets = "; ".join(f"{name}: {target.text}" for name, target in EXPORTS.items())
    parser.add_argument("--to", required=True, metavar="TARGET", help=targets)
    parser.add_argument("-o", "--output", required=True, metavar="PATH")
    add_json(parser)
    args = parser.parse(argv)
    if args.to not in EXPORTS:
        raise UsageError(f"unknown export target {args.to!r}{did_you_mean(args.to, EXPORTS)}")
    if args.run.endswith(".1bit"):
        raise UsageError(
            "a packed net has its BatchNorm folded away: export to torch from the run folder or weight file"
        )
    target = EXPORTS[args.to]
    output = output_path(args.output, suffixes=target.suffixes, run=args.run)
    from onebit.runs.run import open_run
    from onebit.verification.inspection import inspect_file

    set_threads()
    run = open_run(args.run, recipe=args.recipe)
    if run.recipe.whitening is not None:
        say(f"note: the net takes images after --whitening {run.recipe.whitening}, which is not part of its weights")
    target.write(run, output)
    verdict = inspect_file(output).verdict
    count = output.stat().st_size
    result = {
        "file": str(output),
        "bytes": count,
        "checked": f"loads into the net of torch.nn layers; weights are {verdict}",
        "verdict": verdict,
    }
    if args.json:
        answer_json(result)
    else:
        answer(f"{output}: {size(count)}; {result['checked']}")
    return 0
