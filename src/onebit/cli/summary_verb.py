"""`onebit summary`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import open_trained, set_threads
from onebit.cli.output import answer_either, say
from onebit.cli.parsing import Parser
from onebit.common.tables import resolve
from onebit.common.text import size, table
from onebit.errors import UsageError
from onebit.nets import is_packed

if TYPE_CHECKING:
    from torch import nn

SUMMED = ("binary_weights", "real_parameters", "bits", "bytes", "macs", "binary_macs")
COLUMNS = ("name", "kind", "output_shape", *SUMMED[:2], *SUMMED[3:], "verdict", "reason")
"""Of a layer; verdict: "binary", "real", or "" without weights; reason: its quantizers, or why it is real."""


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.strip("()[] ").split(",")))


def parser() -> Parser:
    made = Parser(
        "summary",
        "What is binary or real in a net and why; bits, bytes and multiply-accumulates of each layer. The net is a run "
        "folder, a weight file or a packed net; or --model NAME, as it would be trained.",
        *("recipe", "model", "threads", "json"),
    )
    made.add_argument("net", metavar="NET", nargs="?", help="run folder, weight file, or packed net")
    made.add_argument("--method", metavar="NAME", help="without NET: the method that would train the model")
    made.add_argument("--dataset", metavar="NAME", help="without NET: the data set that has the shape of a sample")
    made.add_argument("--input_shape", metavar="SIZES", type=_shape, help="without NET: of a sample, such as 1,28,28")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    if args.net is None and args.model is None:
        raise UsageError("expected a net, or --model NAME")
    net = args.net or args.model
    rows, warnings = (_packed(args.net), []) if args.net and is_packed(args.net) else _modules(args)
    layers = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    for layer in layers:
        layer["bits"] = layer["binary_weights"] + 32 * layer["real_parameters"]
    total = {key: sum(layer[key] for layer in layers) for key in SUMMED}
    total["bytes_float32"] = 4 * (total["binary_weights"] + total["real_parameters"])
    cells = [["layer", "kind", "output", "binary", "real", "bytes", "MACs", ""]]
    for name, kind, shape, *counts, _, verdict, reason in rows:
        why = ": ".join(filter(None, (verdict, reason)))
        cells.append([name, kind, "×".join(map(str, shape)), *(f"{count:,}" for count in counts), why])
    share = f", {100 * total['binary_macs'] / total['macs']:.0f} % of them with binary weights" if total["macs"] else ""
    text = (
        f"{table(cells, right=(3, 4, 5, 6))}\n"
        f"{net}: {total['binary_weights']:,} binary weights, {total['real_parameters']:,} real parameters; "
        f"{size(total['bytes'])} packed, {size(total['bytes_float32'])} at 32 bits; "
        f"{total['macs']:,} multiply-adds a sample{share}"
    )
    answer_either({"net": net, "layers": layers, "total": total, "warnings": warnings}, text, as_json=args.json)
    for line in warnings:
        say(f"warning: {line}")
    return 0


def _packed(net: str) -> list[tuple[Any, ...]]:
    """The operations of a packed net; loads no torch."""
    from onebit.packed import costs, load

    rows = []
    for cost in costs(load(net)):
        verdict = "binary" if cost.binary_weights else "real" if cost.real_parameters else ""
        reason = "folded" if verdict == "real" and not cost.op.startswith("real_") else ""
        if cost.op == "requantize":
            verdict, reason = "integer", "rounding"
        rows.append((*cost, cost.macs if cost.binary_weights else 0, verdict, reason))
    return rows


def _modules(args: Namespace) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The layers of a net in torch, and warnings."""
    from onebit.evaluation.counts import summary
    from onebit.layers.description import describe_layers

    if args.net is None:
        model, shape = _planned(args)
    else:
        run = open_trained(args, args.net)
        model, shape = run.model, run.input_shape
    report = describe_layers(model)
    verdicts = {row.name: ("real", row.reason) for row in report.real}
    verdicts |= {row.name: ("binary", row.quantizer) for row in report.binary}
    rows = [
        (
            *(layer.name, layer.kind, layer.output_shape, layer.binary_weights, layer.real_parameters),
            *(layer.bytes_packed, layer.macs, layer.binary_macs),
            *verdicts.get(layer.name, ("", "")),
        )
        for layer in summary(model, input_shape=shape).layers
    ]
    return rows, report.warnings


def _planned(args: Namespace) -> tuple[nn.Module, tuple[int, ...]]:
    """A model as `onebit train` with the same flags would build it."""
    from onebit.data import DATASETS
    from onebit.models.settings import Custom
    from onebit.recipe.flags import read_words
    from onebit.recipe.request import request_recipe
    from onebit.runs.model import build_model
    from onebit.runs.own_model import settle_code

    set_threads()
    given = {"model": args.model, "dataset": args.dataset}
    given |= {f"model.{name}": value for name, value in (args.model_arguments | args.quantizers).items()}
    words = read_words([f"--{name}={value}" for name, value in given.items() if value is not None])
    flags = {word.name: str(word.value) for word in words}
    recipe = request_recipe(flags, method=args.method)
    entry = resolve(DATASETS, recipe.dataset, kind="data set")
    shape = args.input_shape or (entry.input_shape if args.dataset else None)
    if shape is None:
        raise UsageError("unknown shape of a sample: add --input_shape 1,28,28, or --dataset NAME")
    model = settle_code(recipe, named=flags).model
    if isinstance(model, Custom) and model.coding == "auto":
        model = replace(model, coding="none")
    return build_model(model, input_shape=shape, classes=len(entry.classes or range(10))), tuple(shape)
