"""`onebit export`."""

from __future__ import annotations

from onebit.cli.inputs import open_trained
from onebit.cli.output import answer_either, say, size
from onebit.cli.parsing import Parser, output_path
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError
from onebit.export import EXPORTS


def main(argv: list[str]) -> int:
    parser = Parser("export", "Write a trained net for other software.", "run", "json")
    targets = "; ".join(f"{name}: {target.text}" for name, target in EXPORTS.items())
    parser.add_argument("--to", required=True, metavar="TARGET", help=targets)
    parser.add_argument("-o", "--output", required=True, metavar="PATH")
    args = parser.parse(argv)
    if args.to not in EXPORTS:
        raise UsageError(f"unknown export target {args.to!r}{did_you_mean(args.to, EXPORTS)}")
    if args.run.endswith(".1bit"):
        raise UsageError(
            "a packed net has its BatchNorm folded away: export to torch from the run folder or weight file"
        )
    target = EXPORTS[args.to]
    output = output_path(args.output, suffixes=target.suffixes, run=args.run)
    from onebit.verification.inspection import inspect_file

    run = open_trained(args)
    if run.recipe.whitening is not None:
        say(f"note: the net takes images after --whitening {run.recipe.whitening}, which is not part of its weights")
    target.write(run, output)
    verdict = inspect_file(output).verdict
    checked = f"loads into the net of torch.nn layers; weights are {verdict}"
    count = output.stat().st_size
    facts = {"file": str(output), "bytes": count, "checked": checked, "verdict": verdict}
    answer_either(facts, f"{output}: {size(count)}; {checked}", as_json=args.json)
    return 0
