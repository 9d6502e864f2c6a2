"""`onebit export`."""

from __future__ import annotations

from onebit.cli.output import answer, answer_json, say, set_threads, size
from onebit.cli.parsing import Parser, add_json, add_run, output_path
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError

EXPORTS = {"torch": "a plain ±1 checkpoint for torch.nn layers: .pth (state_dict) or .safetensors"}
"""Target -> what it writes."""


def main(argv: list[str]) -> int:
    parser = Parser("export", "Write a trained net for other software.")
    add_run(parser)
    parser.add_argument(
        "--to", required=True, metavar="TARGET", help="torch: a plain ±1 checkpoint for torch.nn layers"
    )
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help=".pth or .safetensors")
    add_json(parser)
    args = parser.parse(argv)
    if args.to not in EXPORTS:
        raise UsageError(f"unknown export target {args.to!r}{did_you_mean(args.to, EXPORTS)}")
    if args.run.endswith(".1bit"):
        raise UsageError(
            "a packed net has its BatchNorm folded away: export to torch from the run folder or weight file"
        )
    output = output_path(args.output, suffixes=(".pth", ".pt", ".safetensors"), run=args.run)
    from onebit.export.torch_state import plain_twin, save_plain
    from onebit.runs.run import open_run
    from onebit.train.weights import read_state
    from onebit.verification.inspection import inspect_file

    set_threads()
    run = open_run(args.run, recipe=args.recipe)
    if run.recipe.whitening is not None:
        say(f"note: the net takes images after --whitening {run.recipe.whitening}, which is not part of its weights")
    save_plain(run.model, output)
    # the check reads the file again, as its user will
    plain_twin(run, read_state(output)[0], source=str(output))
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
