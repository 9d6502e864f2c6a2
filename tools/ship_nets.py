"""Pack a finished run as a net that ships with onebit: python -m tools.ship_nets NAME RUN

The net is packed, proven against its run and evaluated on the whole real test set by the native library; its card gets
the result. Three files change: the net in src/onebit/nets, its line in tests/shipped_nets.json, and the table in
docs/nets.md. Without NAME and RUN, the references and licenses on all cards and the table are updated.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import onebit
from onebit.data import DATASETS
from onebit.errors import OnebitError, UsageError
from onebit.nets import FOLDER, SUFFIX, net_names
from onebit.packed import Card, CardScore, PackedNet, dumps

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "shipped_nets.json"
DOCUMENT = ROOT / "docs" / "nets.md"
TABLE_HEAD = "| name | net | bits | accuracy | bytes |\n|---|---|---|---:|---:|\n"
MOST_BYTES = 1_500_000
"""The limit for all nets together, which are part of every wheel."""


NETS = {
    "membrane-unet": "U-Net with one-bit weights: cell membranes in electron microscopy, a mask for each image",
    "mnist-mlp": "MLP 784-512-512-10 with one-bit weights: handwritten digits",
    "mnist-mlp-large": "MLP 784-1024-1024-1024-10 with one-bit weights: handwritten digits",
    "mnist-mlp-signs": "MLP 784-1024-1024-10 with one-bit weights and activations: handwritten digits",
    "resnet20-cifar10": "ResNet-20 with one-bit weights in every layer: photographs of 10 kinds of things",
    "resnet20-cifar10-int8": "resnet20-cifar10 with activations rounded to 8 bits: integers from the pixels to the last"
    " layer",
    "resnet20-cifar10-signs": "ResNet-20 with one-bit weights and activations: photographs of 10 kinds of things",
    "vgg-small-cifar10": "VGG-small of a quarter of the width, one-bit weights and activations: photographs of 10"
    " kinds of things",
}
"""Nets that ship or may be added: name -> summary."""
ACTIVATIONS = {"resnet20-cifar10-int8": 8}
"""Bits of activations that are rounded after training."""
FREE = {"membrane-unet"}
"""Nets that take images of any size."""


def ship(name: str, folder: str) -> PackedNet:
    """The packed net of a run, with all claims about it checked.

    Raises:
        OnebitError: a claim does not hold, or the card lacks something.
    """
    from onebit.evaluation.packed_nets import score_packed
    from onebit.runs.card import run_card
    from onebit.runs.opening import load_run_data
    from onebit.runs.run import open_run
    from onebit.verification.proof import prove_packed
    from onebit.verification.run_packing import Rounding, pack_run

    run = open_run(folder)
    data = load_run_data(run)
    rounding = Rounding(ACTIVATIONS[name]) if name in ACTIVATIONS else None
    net = pack_run(run, data, rounding=rounding, sizes="any" if name in FREE else "fixed")
    made = run_card(run, net.certificate)
    assert made is not None, "stores no recipe"
    score = score_packed(net, data.test)
    packed = CardScore(correct=score["correct"], count=score["count"], mean_iou=score.get("mean_iou"))
    test = {"packed": packed, **{mode: found for mode, found in made.test.items() if mode != "packed"}}
    card = dataclasses.replace(made, summary=NETS[name], test=test)
    refuse_gaps(card)
    net = dataclasses.replace(net, card=card)
    for claim in prove_packed(net, data, source=run):
        print(f"{'ok  ' if claim.ok else 'FAIL'}  {claim.name}: {claim.detail}")
        if not claim.ok:
            raise OnebitError(f"{name}: the claim {claim.name!r} does not hold, nothing was written")
    return net


def refuse_gaps(card: Card) -> None:
    """Raise UsageError for a card that lacks a field."""
    if missing := [field.name for field in dataclasses.fields(card) if getattr(card, field.name) in (None, {})]:
        raise UsageError(f"the card lacks {', '.join(missing)}: train a recipe that ships with onebit, to its end")


def answer(net: PackedNet) -> str:
    """The SHA-256 of the outputs for two random inputs, which are the same on every machine."""
    inputs = np.random.default_rng(0).integers(0, 256, (2, *net.input.shape), np.uint8)
    outputs = onebit.run(net, inputs)
    return hashlib.sha256(outputs.astype("<f4").tobytes()).hexdigest()


def write(name: str, net: PackedNet) -> None:
    """Write the net and its line of the record; UsageError if all nets together would be too large."""
    data = dumps(net)
    others = [path.stat().st_size for path in FOLDER.glob(f"*{SUFFIX}") if path.stem != name]
    if (total := sum(others) + len(data)) > MOST_BYTES:
        raise UsageError(
            f"{name} has {len(data):,} bytes, all nets together {total:,}, expected at most {MOST_BYTES:,}"
        )
    (FOLDER / f"{name}{SUFFIX}").write_bytes(data)
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record[name] = {"sha256": hashlib.sha256(data).hexdigest(), "answer": answer(net)}
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")
    print(f"{name}: {len(data):,} bytes; all nets together {total:,}")


def reference(recipe: str) -> str:
    """The references of a recipe, on one line."""
    from onebit.recipe import read_settings, recipe_path

    return " ".join(read_settings(recipe_path(recipe))["reference"].split())


def refresh_cards() -> None:
    """Update the nets whose recipes have new references, or whose data have new terms."""
    for name in net_names():
        net = onebit.load(name)
        card = net.card
        assert card is not None
        assert card.recipe is not None
        assert card.dataset is not None
        terms = DATASETS[card.dataset].licence
        now = dataclasses.replace(card, reference=reference(card.recipe), license=terms)
        if now != card:
            write(name, dataclasses.replace(net, card=now))


def table() -> str:
    """A line for each net that ships, as Markdown."""
    from onebit.cli.list_verb import nets

    lines = [
        f"| `{name}` | {facts['summary']} | {facts['bits']} | {100 * facts['accuracy']:.2f} % | {facts['bytes']:,} |\n"
        for name, facts in nets().items()
    ]
    return TABLE_HEAD + "".join(lines)


def write_table() -> None:
    """Replace the table of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(re.sub(rf"{re.escape(TABLE_HEAD)}(\|.*\n)*", lambda _: table(), text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(NETS), nargs="?")
    parser.add_argument("run", help="folder of a finished training", nargs="?")
    arguments = parser.parse_args()
    if arguments.name is not None:
        if arguments.run is None:
            parser.error("name the run folder as well")
        write(arguments.name, ship(arguments.name, arguments.run))
    refresh_cards()
    write_table()
    print(f"{len(net_names())} nets ship")


if __name__ == "__main__":
    main()
