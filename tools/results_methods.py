"""`make results-methods`: trains every method under one protocol and writes the tables of docs/results.md.

Each row is one `onebit train` command, given in the document. docs/results/methods.json is the one place of what its
runs measured: seeds that it has are not trained again. Then the training steps of all methods are timed in turn
against plain torch, as `python -m benchmarks training-step` does.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onebit
from benchmarks.training_step import measure
from benchmarks.variants import Variant
from onebit.cli.train_command import read_command, train_request
from tools.results_table import changes, flat, refuse_other_place, settings_of

recipe = onebit.recipe

DOCUMENT = Path("docs/results.md")
RECORD = Path("docs/results/methods.json")
RUNS = Path("runs/methods")
Record = dict[str, dict[str, dict[str, Any]]]
"""Protocol -> method -> its command, the ratio of its step, and for each seed what was measured."""
MODES = ("latent", "mean", "sample", "ensemble:10")
"""Test modes with a column of their own, where a row has them."""
OF_NET = ("real_first", "real_last", "last_norm", "bireal")
"""Options that say which net it is, whatever trains it."""


@dataclass(frozen=True)
class Protocol:
    """One net, data set and length of training for many methods.

    flags: for every `onebit train`. own: those of single methods. step: arguments of `measure` for the training step.
    methods: None for all.
    """

    model: str
    flags: tuple[str, ...]
    step: dict[str, Any]
    methods: tuple[str, ...] | None = None
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The methods, in the order of the rows."""
        return list(self.methods or recipe.methods())

    def command(self, method: str) -> list[str]:
        """The arguments of `onebit` that train it, but for seeds and folder."""
        own = self.own.get(method, ())
        return ["train", "--model", self.model, "--method", method, *self.flags, *own, "--threads", "1"]

    def recipe(self, method: str) -> recipe.Recipe:
        """What the command trains."""
        return train_request(read_command(self.command(method)[1:])).recipe


# real first and last layer, as the papers have them; images that grow take a third off the time
CIFAR = (
    *("--dataset", "cifar10", "--batch_size", "125", "--precision", "bf16", "--augmentation.first_size", "16"),
    *("--model.real_first", "true", "--model.real_last", "true", "--model.last_norm", "null"),
)
# as for 1-bit weights and activations: a shortcut around each convolution; the last of 30 epochs of all images
BIREAL = (
    *(*CIFAR, "--epochs", "30", "--validation", "0", "--augmentation.padding_mode", "reflect"),
    *("--model.bireal", "true", "--optimizer.name", "adam", "--optimizer.lr", "0.02"),
)
# Adam at this rate carries most latents beyond ±1, where the gradient of these is 0 for good
WITHIN_BOUNDS = dict.fromkeys(("bireal", "react"), ("--optimizer.latent_clip", "1"))
# BatchNorm undoes the scale, whose gradient is rounding, of which Adam makes full steps
RECU = ("--model.weight_options.learn_scale", "false")
# as in the authors' code for this net, whose hard tanh bounds what the gradient of the sign does not
IRNET = ("--model.activation", "hardtanh", "--model.weight_options.t_start", "0.001")
SIGNS = ("bnn", "xnor", "bireal", "irnet", "react", "recu", "adabin")

SEEDS = (0, 1, 2)

PROTOCOLS = {
    "mlp": Protocol(
        model="mlp",
        flags=("--dataset", "mnist", "--model.widths", "[784,512,512,10]", "--epochs", "20"),
        step={"widths": (784, 512, 512, 10), "batch": 100, "rounds": 31},
    ),
    "resnet20": Protocol(
        model="resnet20",
        # as the papers compare 1-bit weights: real inputs, the blocks of He et al.
        flags=(
            *(*CIFAR, "--epochs", "40"),
            *("--model.bireal", "false", "--model.input_quantizer", "null"),
        ),
        step={"model": "resnet20", "batch": 125, "rounds": 11},
        methods=("real", "binaryconnect", "bop", "bayesbinn", "proxquant"),
    ),
    "resnet20-signs": Protocol(
        model="resnet20",
        # an activation after every sum: without one, signs cost some points more
        flags=(*BIREAL, "--model.activation", "rprelu"),
        step={"model": "resnet20", "batch": 125, "rounds": 11},
        methods=SIGNS,
        own={
            **WITHIN_BOUNDS,
            "recu": RECU,
            "irnet": (*IRNET, "--model.input_options.t_start", "0.001"),
        },
    ),
    "resnet20-weights": Protocol(
        model="resnet20",
        flags=(*BIREAL, "--model.input_quantizer", "null"),
        step={"model": "resnet20", "batch": 125, "rounds": 11},
        methods=SIGNS,
        own={**WITHIN_BOUNDS, "irnet": IRNET, "recu": RECU},
    ),
}


def read_record() -> Record:
    """What was measured; an entry of another command than the present one ends the program."""
    record: Record = json.loads(RECORD.read_text(encoding="utf-8"))
    for name, entries in record.items():
        for method, entry in entries.items():
            if entry["command"] != shlex.join(PROTOCOLS[name].command(method)):
                sys.exit(f"{RECORD}: {name}, {method}: measured with another command than that of today; remove it")
    return record


def train(protocol: Protocol, method: str, seeds: Iterable[int], folder: Path) -> None:
    """Train one method with these seeds; interrupted runs are resumed."""
    command = [*protocol.command(method), "--seeds", ",".join(map(str, seeds)), "--out", str(folder)]
    print(f"\n$ onebit {' '.join(command)}", flush=True)
    resume = ["--resume"] if folder.exists() else []
    done = subprocess.run([sys.executable, "-m", "onebit", *command, *resume])
    if done.returncode:
        sys.exit(done.returncode)


def measured(protocol: Protocol, method: str, folder: Path) -> dict[str, Any]:
    """Seed -> what its finished run in the folder measured.

    A run of another seed, of other settings than those of the protocol or on another device ends the program.
    """
    trained = protocol.recipe(method)
    stated, found = flat(trained), {}
    for file in sorted(folder.glob("seed-*/result.json")):
        run, result = file.parent, json.loads(file.read_text(encoding="utf-8"))
        if result["seed"] not in SEEDS:
            sys.exit(f"{run}: trained with the seed {result['seed']}, expected one of {SEEDS}; name other --runs")
        if differing := sorted(changes(settings_of(run / "recipe.yaml"), stated)):
            sys.exit(f"{run}: trained with another {', '.join(differing)} than the command; name other --runs")
        refuse_other_place(run, result)
        if trained.precision not in ("auto", result["precision"]):
            sys.exit(f"{run}: trained in {result['precision']}, the command has another precision; name other --runs")
        log = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        scores = {mode: {key: score[key] for key in ("correct", "count")} for mode, score in result["test"].items()}
        flips = [round(row["flip_ratio"], 6) for row in (log[0], log[-1])]
        found[str(result["seed"])] = {"test": scores, "flip_ratios": flips}
    return found


def take(protocol: Protocol, method: str, folder: Path, entries: dict[str, Any]) -> None:
    """Add what the finished runs of a folder measured to the record of its protocol."""
    entry = entries.setdefault(method, {"command": shlex.join(protocol.command(method)), "seeds": {}})
    entry["seeds"] = dict(sorted((entry["seeds"] | measured(protocol, method, folder)).items()))
    if len(entry["seeds"]) == len(SEEDS):
        entry.pop("before", None)


def _bits(input_quantizer: str | None) -> int:
    """Bits of the inputs of layers."""
    return 32 if input_quantizer is None else onebit.quantizers.INPUT_QUANTIZERS.entry(input_quantizer).bits


def time_steps(protocol: Protocol) -> dict[str, float]:
    """Method -> the ratio of its training step to that of plain torch in the same precision, that of the training."""
    variants = []
    nets: list[dict[str, Any]] = []
    for method in protocol.names():
        trained = protocol.recipe(method)
        model, optimizer = trained.model, trained.optimizer.name
        nets.append({name: value for name in OF_NET if (value := getattr(model, name)) is not None})
        weights, inputs = model.weight_quantizer, model.input_quantizer
        variants.append(Variant(method, weights, inputs, optimizer=optimizer, activation=model.activation))
    if any(net != nets[0] for net in nets):
        sys.exit(f"{protocol.model}: the methods train nets of different {', '.join(OF_NET)}; time them one by one")
    rows = measure(variants=variants, options=nets[0], **protocol.step)["rows"]
    last = rows[-1]  # bf16 where the machine multiplies it, as a training does
    own = [row for row in rows if all(row[name] == last[name] for name in ("precision", "memory_format"))]
    return {row["variant"]: row["twin_ratio"] for row in own}


def cells(entry: Mapping[str, Any]) -> dict[str, str]:
    """Column -> what a row shows of its runs; `before` has that of runs whose single figures were not kept."""
    if "before" in entry:
        return dict(entry["before"])
    runs = list(entry["seeds"].values())
    if not runs:
        return {}
    shown = {
        mode: onebit.report.wording.percent([run["test"][mode]["correct"] / run["test"][mode]["count"] for run in runs])
        for mode in runs[0]["test"]
    }
    if "real" not in shown:
        first, last = (statistics.mean(run["flip_ratios"][i] for run in runs) for i in (0, 1))
        shown["flips"] = f"{100 * first:.2f} → {100 * last:.3f} %"
    return shown | {"seeds": onebit.report.wording.number_range([int(seed) for seed in entry["seeds"]])}


def table(protocol: Protocol, entries: Mapping[str, Any]) -> str:
    """The rows as Markdown; methods that are not trained are marked.

    Args:
        entries: method -> what `read_record` has.
    """
    rows = {method: cells(entries[method]) if method in entries else {} for method in protocol.names()}
    modes = [mode for mode in MODES if any(mode in row for row in rows.values())]
    head = ["method", "bits of weights / inputs", "test accuracy, binary (real: real)", *modes]
    head += ["flips, first → last epoch", "seeds", "step, to plain torch"]
    lines = [head, ["---"] * len(head)]
    for method, row in rows.items():
        if not row:
            lines.append([f"`{method}`", "", "not yet trained", *[""] * (len(head) - 3)])
            continue
        model, step = protocol.recipe(method).model, entries[method].get("step")
        lines.append(
            [
                f"`{method}`",
                f"{32 if model.weight_quantizer is None else 1} / {_bits(model.input_quantizer)}",
                f"**{row['binary']}**" if "binary" in row else row["real"],
                *(row.get(column, "") for column in (*modes, "flips", "seeds")),
                "" if step is None else f"{step:.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(record: Record) -> None:
    """Write the record and the tables between their markers in the document."""
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8"), record), encoding="utf-8")
    print(f"wrote {RECORD} and {DOCUMENT}")


def written(text: str, record: Record) -> str:
    """The text of the document with the tables of the record."""
    for name, protocol in PROTOCOLS.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (start and end):
            sys.exit(f"{DOCUMENT}: expected <!-- {name} --> and <!-- end -->, each on a line")
        text = before + start + table(protocol, record.get(name, {})) + "\n" + end + after
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), help="only this one")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"folder of the run folders (default: {RUNS})")
    parser.add_argument("--table", action="store_true", help="take what was trained, train and time nothing")
    args = parser.parse_args()
    record = read_record()
    for name in [args.protocol] if args.protocol else PROTOCOLS:
        protocol, entries = PROTOCOLS[name], record.setdefault(name, {})
        for method in args.methods or protocol.names():
            folder = args.runs / name / method
            take(protocol, method, folder, entries)
            missing = [seed for seed in SEEDS if str(seed) not in entries[method]["seeds"]]
            if missing and not args.table:
                train(protocol, method, missing, folder)
                take(protocol, method, folder, entries)
        for method, ratio in time_steps(protocol).items() if not args.table else ():
            if method in entries:
                entries[method]["step"] = round(ratio, 4)
    write(record)


if __name__ == "__main__":
    main()
