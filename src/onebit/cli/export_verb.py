"""`onebit export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import load_data, open_net
from onebit.cli.output import answer_either, say
from onebit.cli.parsing import Parser, refuse_trained, whole_number
from onebit.errors import DataError, UsageError
from onebit.export import EXPORTS, export_net
from onebit.export.writing import affordable, check_request
from onebit.nets import is_packed

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.packed import PackedNet
    from onebit.runs.opening import Run

LANGUAGE = {
    "tokenizer": "folder of tokenizer.json (default: that of the model)",
    "pre": "llama.cpp's name of how the tokenizer splits words, if it is not that of GPT-2, Llama 3 or Qwen",
}
"""Options of language models -> help."""
IMAGES = 200
CERTIFIED = 1000


def parser() -> Parser:
    description = "Export a trained or packed net for other software, and compare the result."
    made = Parser("export", description, "run-or-net", "recipe", "model", "data", "json")
    targets = "; ".join(f"{name}: {target.text}" for name, target in EXPORTS.items())
    made.add_argument("--to", required=True, metavar="TARGET", help=targets)
    made.add_argument("-o", "--output", required=True, metavar="PATH", help="file, or folder for some targets")
    images = f"test images to compare (default: {IMAGES}, fewer for large nets), or random inputs without data"
    made.add_argument("--images", type=whole_number(1), metavar="N", help=images)
    for option in _options():
        takers = {name: target.options[option] for name, target in EXPORTS.items() if option in target.options}
        takes = (f"--to {name}: {', '.join(values)} (default: {values[0]})" for name, values in takers.items())
        made.add_argument(f"--{option}", metavar="NAME", help="; ".join(takes))
    for option, text in LANGUAGE.items():
        made.add_argument(f"--{option}", metavar=option.upper(), help=f"--to gguf: {text}")
    reporting = " or ".join(name for name, target in EXPORTS.items() if target.report)
    made.add_argument("--report", action="store_true", help=f"measure what the net needs, for --to {reporting}")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    path = refuse_trained(args.output, run=args.run)
    options = {option: value for option in _options() if (value := getattr(args, option)) is not None}
    target, _ = check_request(args.to, path, options, report=args.report)
    language = {option: value for option in LANGUAGE if (value := getattr(args, option)) is not None}
    if not target.packed:
        return _language_model(args, options | language)
    if language:
        raise UsageError(f"--{min(language)} does not apply to --to {args.to}")
    net, data = _opened(args)
    inputs, what = None, ""
    if data is not None:
        from onebit.evaluation.packed_nets import fitted_to

        images = fitted_to(net, data.test).spread(args.images or affordable(net, IMAGES))
        inputs, what = images.images[:], f"{len(images):,} {data.name} test images"
    made = export_net(net, args.to, path, inputs=inputs, count=args.images, what=what, report=args.report, **options)
    facts = {
        "file": args.output,
        "files": [str(file) for file in made.files],
        "bytes": made.size,
        "checked": str(made.comparison or f"not run here: {made.not_compared}"),
        "comparison": made.comparison and made.comparison._asdict(),
        "report": made.report,
    }
    answer_either(facts, str(made), as_json=args.json)
    return 0


def _language_model(args: Any, options: dict[str, Any]) -> int:
    from onebit.runs.language import export_gguf

    made = export_gguf(args.run, args.output, **options)
    checked = "each sign, scale and byte read back equal"
    facts = {"file": args.output, "bytes": made.size, "bits_per_weight": made.bits, "tensors": made.tensors}
    answer_either(facts | {"checked": checked}, f"{made}\n{checked}", as_json=args.json)
    return 0


def _options() -> list[str]:
    return sorted({option for target in EXPORTS.values() for option in target.options})


def _opened(args: Any) -> tuple[PackedNet, Dataset | None]:
    """The packed net of a file or a run, and images to compare on; a run is certified if its data can be loaded."""
    net: Any = open_net(args)
    if is_packed(args.run):
        return net, _loaded(net, args) if net.certificate and _takes_images(net) else None
    from onebit.verification.run_packing import fold_run, on_raw_images, pack_run

    run = on_raw_images(net)
    data = _loaded(run, args)
    if data is None:
        return fold_run(run, None)[1], None
    net = pack_run(run, data, images=min(CERTIFIED, len(data.test)))
    return net, data if _takes_images(net) else None


def _loaded(net: Run | PackedNet, args: Any) -> Dataset | None:
    """The data; None, with a note, if they cannot be loaded and there is no `--data`."""
    try:
        return load_data(net, args)
    except (DataError, UsageError) as error:
        if args.data is not None:
            raise
        say(f"note: not compared on test images: {error}")
        return None


def _takes_images(net: PackedNet) -> bool:
    return len(net.input.shape) == 3 and isinstance(net.output, str)
