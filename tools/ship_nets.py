"""Pack a finished run as a net that ships with onebit: python -m tools.ship_nets NAME RUN

The net is packed, evaluated on the whole test set and proven against its run; its card gets the result. Three files
change: the net in src/onebit/nets, its line in tests/shipped_nets.json, and the table in docs/nets.md. Without NAME and
RUN, the references and licenses on all cards and the table are updated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import onebit
from onebit.cli.list_verb import nets
from onebit.nets import SUFFIX, net_names, shipped_path
from onebit.packed import Card, CardScore, PackedNet, dumps
from onebit.recipe import read_settings, recipe_path

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "shipped_nets.json"
DOCUMENT = ROOT / "docs" / "nets.md"
TABLE_HEAD = "| name | net | bits | accuracy | bytes |\n|---|---|---|---:|---:|\n"
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
FLAGS = {"membrane-unet": ["--sizes", "any"], "resnet20-cifar10-int8": ["--activations", "8"]}
"""Of `onebit pack`."""


def call(*words: str) -> str:
    """The output of a command of onebit. Fails with it: `verify` does if a claim does not hold."""
    command = [sys.executable, "-m", "onebit", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def ship(name: str, run: str) -> PackedNet:
    """The packed net of a run, with all claims about it checked."""
    file = f"{run}/{name}{SUFFIX}"
    print(call("pack", run, "-o", file, *FLAGS.get(name, [])))
    score = json.loads(call("evaluate", file, "--json"))
    packed = CardScore(correct=score["correct"], count=score["count"], mean_iou=score.get("mean_iou"))
    net = onebit.load(file)
    card = net.card or Card()
    others = {mode: score for mode, score in card.test.items() if mode != "packed"}
    card = dataclasses.replace(card, summary=NETS[name], test={"packed": packed, **others})
    onebit.save(dataclasses.replace(net, card=card), file)
    print(call("verify", file, "--source", run))
    return onebit.load(file)


def answer(net: PackedNet) -> str:
    """The SHA-256 of the outputs for two random inputs, which are the same on every machine."""
    inputs = np.random.default_rng(0).integers(0, 256, (2, *net.input.shape), np.uint8)
    return hashlib.sha256(onebit.run(net, inputs).astype("<f4").tobytes()).hexdigest()


def write(name: str, net: PackedNet) -> None:
    """Write the net and its line of the record; tests limit the bytes of all nets and want complete cards."""
    data = dumps(net)
    shipped_path(name).write_bytes(data)
    record: dict[str, Any] = json.loads(RECORD.read_text())
    record[name] = {"sha256": hashlib.sha256(data).hexdigest(), "answer": answer(net)}
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")


def reference(recipe: str) -> str:
    """The references of a recipe, on one line."""
    return " ".join(read_settings(recipe_path(recipe))["reference"].split())


def updated(net: PackedNet) -> PackedNet:
    """The net with the reference of its recipe and the terms of its data as they are today."""
    card: Any = net.card
    terms = onebit.data.DATASETS[card.dataset].licence
    return dataclasses.replace(net, card=dataclasses.replace(card, reference=reference(card.recipe), license=terms))


def table() -> str:
    """A line for each net that ships, as Markdown."""
    return TABLE_HEAD + "".join(
        f"| `{name}` | {facts['summary']} | {facts['bits']} | {100 * facts['accuracy']:.2f} % | {facts['bytes']:,} |\n"
        for name, facts in nets().items()
    )


def main() -> None:
    if sys.argv[1:]:
        name, run = sys.argv[1:]
        write(name, ship(name, run))
    for name in net_names():
        write(name, updated(onebit.load(name)))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(re.sub(rf"{re.escape(TABLE_HEAD)}(\|.*\n)*", lambda _: table(), text), encoding="utf-8")


if __name__ == "__main__":
    main()
