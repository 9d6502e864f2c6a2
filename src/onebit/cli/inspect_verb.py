"""`onebit inspect`."""

from __future__ import annotations

from pathlib import Path

from onebit.cli.output import answer, answer_json, say, size, table
from onebit.cli.parsing import Parser, add_json


def main(argv: list[str]) -> int:
    parser = Parser("inspect", "Is it really binary? Looks into any torch, safetensors or .1bit file, or a run folder.")
    parser.add_argument("run", metavar="RUN-or-FILE")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the histograms of all layers")
    add_json(parser)
    args = parser.parse(argv)
    from onebit.inspection import Inspection, inspect_file

    found: Inspection = inspect_file(args.run)
    if args.plot:
        from onebit.report import plot_weights
        from onebit.train.run import read_state, weight_file

        plot_weights(read_state(weight_file(Path(args.run)))[0], Path(args.plot))
        say(f"wrote {args.plot}")
    if args.json:
        answer_json(found.as_dict())
        return 0
    answer(f"{found.file}: {found.verdict} ({found.kind} file)")
    rows = [["layer", "shape", "verdict", "lowest", "highest", "-1", "+1", "between", "outside", "distance to ±1"]]
    for layer in found.layers:
        counts = (layer.minus_one, layer.plus_one, layer.between, layer.outside)
        rows.append(
            [
                layer.name,
                "×".join(map(str, layer.shape)),
                layer.verdict,
                f"{layer.low:.4g}",
                f"{layer.high:.4g}",
                *(f"{count:,}" for count in counts),
                f"{layer.distance:.4f}",
            ]
        )
    answer(table(rows, right=tuple(range(3, 10))))
    total = found.total
    answer(
        f"{total['parameters']:,} parameters, {total['binary_weights']:,} of {total['weights']:,} weights binary; "
        f"{size(total['bytes_in_file'])} of tensors here, {size(total['bytes_at_32_bit'])} at 32 bits, "
        f"{size(total['bytes_at_1_bit'])} with weights at 1 bit; {total['macs']:,} multiply-adds an image"
    )
    for key, value in found.facts.items():
        if key == "recipe" and isinstance(value, dict):
            answer(f"recipe: {value.get('name')}")
        elif key == "certificate" and isinstance(value, dict):
            answer(
                f"certificate: {value['correct']} of {value['count']} {value['dataset']} {value['split']} right, "
                f"{value['label_mismatches']} labels differ from torch; {value['weights']} weights of {value['recipe']}"
            )
        elif isinstance(value, float):
            answer(f"{key}: {value:.4g}")
        elif isinstance(value, (str, int)):
            answer(f"{key}: {value}")
    for warning in found.warnings:
        say(f"warning: {warning}")
    return 0
