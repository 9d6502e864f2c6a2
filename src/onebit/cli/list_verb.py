"""`onebit list`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onebit.cli.output import answer_either, percent
from onebit.cli.parsing import Parser
from onebit.common.text import NetSize, size, table
from onebit.data import DATASETS
from onebit.evaluation.loss_table import LOSSES
from onebit.export import EXPORTS
from onebit.nets import net_names, shipped_path
from onebit.optim.settings import OPTIMIZERS
from onebit.packed import Card, PackedNet, load
from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import methods, read_settings, recipe_names, recipe_path
from onebit.train.settings import SCHEDULES


def _first_lines(entries: Mapping[str, Any]) -> dict[str, str]:
    """Name -> first line of the docstring; "" without one, as under python -OO."""
    return {name: (entry.__doc__ or "").strip().partition("\n")[0] for name, entry in entries.items()}


def _methods() -> dict[str, str]:
    found = {}
    for name, parts in methods().items():
        weights, inputs = (parts["model"][f"{part}_quantizer"] or "real" for part in ("weight", "input"))
        found[name] = f"weights {weights}, inputs {inputs}"
    return found


def _models() -> dict[str, str]:
    """nets: onebit train --model NAME"""
    import torch

    from onebit.evaluation.counts import model_size
    from onebit.models import MODELS, create_model

    rows = {}
    for name in MODELS:
        with torch.device("meta"):  # shapes alone: no memory and no random numbers
            model: Any = create_model(name, weight_quantizer="sign")
        binary, real, packed = model_size(model)
        images = "×".join(map(str, model.input_shape))
        count = binary + real
        rows[name] = f"{count:,} parameters for {images} images, {size(4 * count)} at 32 bits, {size(packed)} at 1 bit"
    return rows


def _quantizers() -> dict[str, str]:
    tables: dict[str, Mapping[str, Any]] = {"weights": WEIGHT_QUANTIZERS, "inputs": INPUT_QUANTIZERS}
    return {f"{kind}: {name}": text for kind in tables for name, text in _first_lines(tables[kind]).items()}


def _datasets() -> dict[str, str]:
    found = {}
    for name, entry in DATASETS.items():
        facts = ""
        if entry.counts and entry.input_shape and entry.classes:  # a folder is known only when it is read
            train, test, *_ = entry.counts
            shape, classes = "×".join(map(str, entry.input_shape)), len(entry.classes)
            facts = f"{train:,} training, {test:,} test images {shape}, {classes} classes; "
        found[name] = f"{entry.title}; {facts}{entry.licence}"
    return found


def nets() -> dict[str, dict[str, Any]]:
    """Facts about each packed net that ships with onebit."""
    found = {}
    for name in net_names():
        file = shipped_path(name)
        net = load(file)
        card = net.card or Card()
        score = card.test.get("packed")
        binary = sum(node.binary_weights for node in net.nodes)
        found[name] = {
            "summary": card.summary,
            "dataset": card.dataset,
            "method": card.method,
            "bits": _bits(net),
            "binary_weights": binary,
            "all_weights": binary + sum(node.real_weights for node in net.nodes),
            "weights": "packed",
            "correct": score and score.correct,
            "count": score and score.count,
            "accuracy": score and score.correct / score.count,
            "bytes": file.stat().st_size,
        }
    return found


def _bits(net: PackedNet) -> str:
    """Bits of weights and activations, as in W1A8; with real weights in some layer, W1/32."""
    bits = max((node.span for node in net.nodes), default=0).bit_length() or 32
    if net.certificate is not None and net.certificate.activations is not None:
        bits = net.certificate.activations
    elif any(value.kind == "sign" for value in net.values.values()):
        bits = 1
    return f"W1{'/32' if any(node.real_weights for node in net.nodes) else ''}A{bits}"


def _net_rows(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [["name", "data", "bits", "binary weights", "accuracy, packed weights", "size"]]
    for name, facts in found.items():
        share = NetSize(facts["binary_weights"], facts["all_weights"], facts["bytes"]).share
        score = percent(facts["accuracy"]) if facts["count"] else ""
        rows.append([name, facts["dataset"] or "", facts["bits"], share, score, size(facts["bytes"])])
    return rows


LISTS: dict[str, tuple[str, Callable[[], Mapping[str, Any]]]] = {
    "nets": ("packed nets that ship with onebit: onebit predict NAME FILE, onebit inspect NAME", nets),
    "recipes": (
        "complete recipes by name: onebit train NAME",
        lambda: {name: str(read_settings(recipe_path(name)).get("summary", "")) for name in recipe_names()},
    ),
    "methods": ("published ways to train a binary net: onebit train --method NAME", _methods),
    "models": ("nets: onebit train --model NAME", _models),
    "quantizers": (
        "of weights (to ±1) and inputs (to ±1 or a few bits): --model.weight_quantizer, --model.input_quantizer",
        _quantizers,
    ),
    "optimizers": ("with a latent clip: onebit train --optimizer NAME", lambda: _first_lines(OPTIMIZERS)),
    "losses": (
        "for classification: onebit train --loss NAME; all: onebit.fit(loss=NAME)",
        lambda: {name: f"{LOSSES.entry(name).task}: {text}" for name, text in _first_lines(LOSSES).items()},
    ),
    "schedules": ("learning-rate schedules: onebit train --schedule NAME", lambda: dict.fromkeys(SCHEDULES, "")),
    "datasets": ("data sets, and your own images, masks and arrays: onebit train --dataset NAME", _datasets),
    "exports": (
        "formats for other software: onebit export RUN --to NAME",
        lambda: {name: target.text for name, target in EXPORTS.items()},
    ),
}


def parser() -> Parser:
    made = Parser("list", "Everything that can be named.", "json")
    made.add_argument("what", nargs="?", choices=LISTS)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    rows = LISTS[args.what][1]() if args.what else {name: text for name, (text, _) in LISTS.items()}
    text = table(_net_rows(rows), right=(3, 4, 5)) if args.what == "nets" else table([[*row] for row in rows.items()])
    answer_either({args.what or "kinds": rows}, text, as_json=args.json)
    return 0
