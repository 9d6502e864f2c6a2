"""`onebit inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import named_model
from onebit.cli.output import answer, answer_json, say
from onebit.cli.parsing import NET_HELP, Parser
from onebit.common.text import size, table
from onebit.errors import OnebitError, escaped

if TYPE_CHECKING:
    from onebit.runs.run import Run
    from onebit.verification.inspection import Inspection


def parser() -> Parser:
    made = Parser(
        "inspect", "Is it really binary? Inspects any torch, safetensors or .1bit file, or a run folder.", "json"
    )
    made.add_argument("run", metavar="RUN-OR-NET", help=f"run folder, any weight file, or {NET_HELP}")
    made.add_argument("--plot", metavar="FILE.png", help="draw the histograms of all layers")
    made.add_model()
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    from onebit.verification.inspection import inspect_file, net_totals

    found = inspect_file(args.run)
    packed = found.kind == "packed"
    run = None if packed else _known_net(args, found)
    if run is not None:
        found.total.update(net_totals(run.model))
    if args.plot:
        _plot(args.run, args.plot, found, run)
        say(f"wrote {args.plot}")
    if args.json:
        answer_json(found.as_dict())
        return 0
    answer(f"{escaped(found.file)}: {found.verdict} ({found.kind} file)")
    rows = [["layer", "shape", "verdict", "-1", "+1", "between", "beyond", "distance to ±1"]]
    for layer in found.layers:
        counts = (layer.minus_one, layer.plus_one, layer.between, layer.outside)
        shape = "×".join(map(str, layer.shape))
        rows.append([layer.name, shape, layer.verdict, *(f"{n:,}" for n in counts), f"{layer.distance:.4f}"])
    answer(table(rows, right=range(3, 8)))
    total = found.total
    answer(
        f"{total['parameters']:,} parameters, {total['binary_weights']:,} of {total['weights']:,} weights binary; "
        f"{size(total['bytes_in_file'])} {'in the file' if packed else 'of tensors here'}, "
        f"{size(total['bytes_at_32_bit'])} at 32 bits, {size(total['bytes_at_1_bit'])} with weights at 1 bit"
        + (f"; {total['macs']:,} multiply-adds a sample" if total["macs"] is not None else "")
    )
    if packed:
        answer(_interface(found.facts["input"], found.facts["outputs"]))
    for key, value in found.facts.items():
        _answer_fact(key, value)
    for warning in found.warnings:
        say(f"warning: {warning}")
    return 0


def _answer_fact(key: str, value: Any) -> None:
    from onebit.packed import Card, Certificate, LayerProof

    if key == "recipe" and isinstance(value, dict):
        answer(escaped(f"recipe: {value.get('name')}"))
    elif key == "card" and value:
        answer(str(Card.from_json(value)))
    elif key == "certificate" and value:
        layers = tuple(LayerProof(**layer) for layer in value["layers"])
        certificate = Certificate(**{**value, "layers": layers})
        source = f" of {certificate.recipe}" if certificate.recipe else ""
        answer(f"certificate: {certificate}; {certificate.weights} weights{source}")
        if certificate.packing:
            answer(f"packed by: onebit pack RUN -o NET.1bit {certificate.packing}")
        if layers:
            answer(table([["compared layer", "with the trained net"], *([x.name, str(x)] for x in layers)]))
    elif isinstance(value, float):
        answer(f"{key}: {value:.4g}")
    elif isinstance(value, (str, int)):
        answer(escaped(f"{key}: {value}"))


CODINGS = {
    "integer": ", coded as 2x - 255",
    "standardize": ", standardized: (x - mean) / std",
    "values": ", as they are",
}


def _interface(taken: dict[str, Any], given: list[dict[str, Any]]) -> str:
    """What a packed net takes and gives, in two lines."""
    meaning = f" ({taken['meaning']})" if taken["meaning"] else ""
    statistics = "".join(
        f", {name} {', '.join(f'{value:.6g}' for value in taken[name])}" for name in ("mean", "std") if name in taken
    )
    outputs = ", ".join(
        f"{row['key']} {shape}".strip() for row in given for shape in ["×".join(map(str, row["shape"])) or "1"]
    )
    shape = "×".join(map(str, taken["shape"]))
    return f"input: {taken['dtype']} {shape}{meaning}{CODINGS[taken['coding']]}{statistics}\noutput: {outputs}"


def _known_net(args: Any, found: Inspection) -> Run | None:
    """The net of a file that carries its recipe or has code; None for any other, which is inspected all the same."""
    from onebit.runs.opening import open_run

    if args.model:
        return open_run(args.run, model=named_model(args))
    try:
        return open_run(args.run) if "recipe" in found.facts else None
    except OnebitError:
        return None


def _plot(path: str, picture: str, found: Inspection, run: Run | None) -> None:
    """Draw the weights: those of a known net with the signs of its latents, those of any other file as they are."""
    from onebit.report import plot_weights
    from onebit.train.weights import read_state, weight_file

    if run is None:
        title = f"{Path(found.file).name}: {found.verdict} weights"
        plot_weights(read_state(weight_file(Path(path)))[0], Path(picture), title=title)
        return
    kind = "weights" if run.recipe.model.weight_quantizer is None else "latent weights"
    epoch = f" after epoch {found.facts['epoch']}" if "epoch" in found.facts else ""
    plot_weights(run.model, Path(picture), title=f"{run.recipe.name}: {kind}{epoch}")
