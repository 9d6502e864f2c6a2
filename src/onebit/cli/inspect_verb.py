"""`onebit inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import named_model
from onebit.cli.output import answer_either, say
from onebit.cli.parsing import NET_HELP, Parser
from onebit.common.text import size, table
from onebit.errors import OnebitError, UsageError, escaped

if TYPE_CHECKING:
    from onebit.runs.opening import Run
    from onebit.verification.inspection import Inspection


def parser() -> Parser:
    description = "Is it really binary? Inspects any torch, safetensors, .1bit, GGUF or ONNX file, or a run folder."
    made = Parser("inspect", description, "model", "json")
    made.add_argument("run", metavar="RUN-OR-NET", help=f"run or model folder, any weight file, or {NET_HELP}")
    made.add_argument("--plot", metavar="FILE.png", help="draw the histograms of all layers")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    from onebit.verification.foreign_files import SUFFIXES, inspect_foreign
    from onebit.verification.inspection import inspect_file, net_totals

    foreign = Path(args.run).suffix in SUFFIXES
    found = inspect_foreign(Path(args.run)) if foreign else inspect_file(args.run)
    run = None if foreign or found.kind == "packed" else _known_net(args, found)
    latent = False
    if run is not None:
        from onebit.layers import binary_layers

        found.total.update(net_totals(run.model))
        latent = not found.total["binary_weights"] and any(binary_layers(run.model))
    if args.plot and (foreign or found.kind == "packed"):
        raise UsageError(f"--plot draws latent weights, got a {found.kind} file")
    if args.plot:
        from onebit.report import plot_weights
        from onebit.train.weights import read_state, weight_file

        # a known net tells latents from real weights
        drawn = run.model if run else read_state(weight_file(Path(args.run)))[0]
        plot_weights(drawn, args.plot, title=f"{Path(found.file).name}: {found.verdict} weights")
        say(f"wrote {args.plot}")
    answer_either(found.as_dict(), "\n".join(_lines(found, latent=latent)), as_json=args.json)
    for warning in found.warnings:
        say(f"warning: {warning}")
    return 0


def _lines(found: Inspection, *, latent: bool) -> Iterator[str]:
    """The answer as text; `latent` for the latent weights of a binary net."""
    packed, total = found.kind == "packed", found.total
    yield f"{escaped(found.file)}: {found.verdict} ({found.kind} file)"
    if "bits_per_weight" in total:
        rows = [["layer", "shape", "type", "bits a weight", "verdict", "smallest", "largest"]]
        for x in found.layers:
            bits, *ends = (f"{number:.4g}" for number in (x.bits, x.low, x.high))
            rows.append([x.name, _sizes(x.shape), x.dtype, bits, x.verdict, *ends])
        yield table(rows, right=(3, 5, 6))
        yield (
            f"{total['binary_weights']:,} of {total['weights']:,} weights binary; {size(total['bytes_in_file'])}, "
            f"{total['bits_per_weight']:.2f} bits a weight in all"
        )
    else:
        rows = [["layer", "shape", "verdict", "-1", "+1", "between", "beyond", "distance to ±1"]]
        for x in found.layers:
            counts = (f"{count:,}" for count in (x.minus_one, x.plus_one, x.between, x.outside))
            rows.append([x.name, _sizes(x.shape), x.verdict, *counts, f"{x.distance:.4f}"])
        yield table(rows, right=range(3, 8))
        yield (
            f"{total['parameters']:,} parameters, {total['binary_weights']:,} of {total['weights']:,} weights binary"
            f"{' (these are latent weights; their signs ship)' if latent else ''}; "
            f"{size(total['bytes_in_file'])} {'in the file' if packed else 'of tensors here'}, "
            f"{size(total['bytes_at_32_bit'])} at 32 bits, {size(total['bytes_at_1_bit'])} with weights at 1 bit"
            + (f"; {total['macs']:,} multiply-adds a sample" if total["macs"] is not None else "")
        )
    if packed:
        given = found.facts["outputs"]
        for key, taken in found.facts.get("inputs", {"": found.facts.get("input")}).items():
            meaning = f" ({taken['meaning']})" if taken["meaning"] else ""
            named = [f", {x} {', '.join(f'{y:.6g}' for y in taken[x])}" for x in ("mean", "std") if x in taken]
            taken_size = _sizes(taken["shape"]) + " or any size" * ("sizes" in taken)
            what = f"{taken['dtype']} {taken_size}{meaning}, coding {taken['coding']}{''.join(named)}"
            yield f"input {key}".strip() + f": {what}"
        yield "output: " + ", ".join(f"{row['key']} {_sizes(row['shape']) or 1}".strip() for row in given)
    for key, value in found.facts.items():
        yield from _fact(key, value)


def _fact(key: str, value: Any) -> Iterator[str]:
    """A fact of a file as text; some facts are in the JSON only."""
    from onebit.packed import Card, Certificate, LayerProof

    if key == "recipe" and isinstance(value, dict):
        yield escaped(f"recipe: {value.get('name')}")
    elif key == "card" and value:
        yield str(Card.from_json(value))
    elif key == "certificate" and value:
        layers = tuple(LayerProof(**layer) for layer in value["layers"])
        certificate = Certificate(**{**value, "layers": layers})
        source = f" of {certificate.recipe}" if certificate.recipe else ""
        yield f"certificate: {certificate}; {certificate.weights} weights{source}"
        if certificate.packing:
            yield f"packed by: onebit pack RUN -o NET.1bit {certificate.packing}"
        if layers:
            yield table([["compared layer", "with the trained net"], *([x.name, str(x)] for x in layers)])
    elif isinstance(value, float):
        yield f"{key}: {value:.4g}"
    elif isinstance(value, (str, int)):
        yield escaped(f"{key}: {value}")


def _sizes(shape: Any) -> str:
    return "×".join(map(str, shape))


def _known_net(args: Any, found: Inspection) -> Run | None:
    """The net of a file with a recipe or with named code; None for other files, which are inspected without it."""
    from onebit.runs.opening import open_run

    if args.model or args.quantizers:
        return open_run(args.run, model=named_model(args), quantizers=args.quantizers)
    try:
        return open_run(args.run) if "recipe" in found.facts else None
    except OnebitError:
        return None
