"""`make results-methods`: trains every method under one protocol and writes the tables of docs/results.md.

Each row is one `onebit train` command, given in the document. What is already trained is not trained again. Then the
training steps of all methods are timed in turn against plain torch, as `python -m benchmarks training-step` does.
"""

from __future__ import annotations

import argparse
import json
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
from tools.results_table import changes, flat, settings_of

recipe = onebit.recipe

DOCUMENT = Path("docs/results.md")
RUNS = Path("runs/methods")
STEPS_FILE = "steps.json"
OF_NET = ("real_first", "real_last", "last_norm", "bireal")
"""Options that say which net it is, whatever trains it."""


@dataclass(frozen=True)
class Protocol:
    """One net, data set and length of training for many methods.

    flags: for every `onebit train`. own: those of single methods. step: arguments of `measure` for the training step.
    methods: None for all.
    """

    model: str
    seeds: str
    flags: tuple[str, ...]
    step: dict[str, Any]
    methods: tuple[str, ...] | None = None
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def folders(self, runs: Path) -> dict[str, Path]:
        """Method -> its run folder."""
        return {method: runs / method for method in self.methods or recipe.methods()}

    def command(self, method: str, folder: Path) -> list[str]:
        """The arguments of `onebit` that train into a folder."""
        flags = ["--model", self.model, "--method", method, *self.flags, *self.own.get(method, ())]
        flags += ["--seeds", self.seeds, "--threads", "1"]
        return ["train", *flags, "--out", str(folder)]

    def recipe(self, method: str) -> recipe.Recipe:
        """What the command trains."""
        return train_request(read_command(self.command(method, Path(method))[1:])).recipe


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
# as in the authors' code for this net, whose hard tanh bounds what the gradient of the sign does not
IRNET = ("--model.activation", "hardtanh", "--model.weight_options.t_start", "0.001")
SIGNS = ("bnn", "xnor", "bireal", "irnet", "react", "recu", "adabin")

PROTOCOLS = {
    "mlp": Protocol(
        model="mlp",
        seeds="0-2",
        flags=("--dataset", "mnist", "--model.widths", "[784,512,512,10]", "--epochs", "20"),
        step={"widths": (784, 512, 512, 10), "batch": 100, "rounds": 31, "steps": 5},
    ),
    "resnet20": Protocol(
        model="resnet20",
        seeds="0",
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
        seeds="0-2",
        # an activation after every sum: without one, signs cost some points more
        flags=(*BIREAL, "--model.activation", "rprelu"),
        step={"model": "resnet20", "batch": 125, "rounds": 11},
        methods=SIGNS,
        own={
            **WITHIN_BOUNDS,
            # BatchNorm undoes the scale, whose gradient is rounding, of which Adam makes full steps
            "recu": ("--model.weight_options.learn_scale", "false"),
            "irnet": (*IRNET, "--model.input_options.t_start", "0.001"),
        },
    ),
    "resnet20-weights": Protocol(
        model="resnet20",
        seeds="0",
        flags=(*BIREAL, "--model.input_quantizer", "null"),
        step={"model": "resnet20", "batch": 125, "rounds": 11},
        methods=SIGNS,
        own={**WITHIN_BOUNDS, "irnet": IRNET},
    ),
}


def train(protocol: Protocol, method: str, folder: Path) -> None:
    """Train one method with all seeds; interrupted runs are resumed."""
    command = protocol.command(method, folder)
    print(f"\n$ onebit {' '.join(command)}", flush=True)
    resume = ["--resume"] if folder.exists() else []
    done = subprocess.run([sys.executable, "-m", "onebit", *command, *resume])
    if done.returncode:
        sys.exit(done.returncode)


def row(protocol: Protocol, folder: Path) -> dict[str, Any] | None:
    """The results of one method, whose name the folder has; None if its training is not finished.

    A run of other settings than those of the protocol ends the program.
    """
    try:
        summary = json.loads((folder / "seeds.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    done, asked = summary["seeds"], list(_seeds(protocol.seeds))
    if done != asked[: len(done)]:
        sys.exit(f"{folder}: trained with the seeds {done}, expected {asked}; name other --runs")
    if len(done) < len(asked):
        return None
    logs = [
        [json.loads(line) for line in (folder / f"seed-{seed}" / "metrics.jsonl").read_text("utf-8").splitlines()]
        for seed in summary["seeds"]
    ]
    stated = protocol.recipe(folder.name)
    for seed in summary["seeds"]:
        if differing := sorted(changes(settings_of(folder / f"seed-{seed}" / "recipe.yaml"), flat(stated))):
            sys.exit(f"{folder}: trained with another {', '.join(differing)} than the command; name other --runs")
    model = recipe.read_settings(folder / f"seed-{summary['seeds'][0]}" / "recipe.yaml")["model"]
    return {
        "test": summary["test"],
        "flips_first": statistics.mean(log[0]["flip_ratio"] for log in logs),
        "flips_last": statistics.mean(log[-1]["flip_ratio"] for log in logs),
        "bits": f"{'32' if model['weight_quantizer'] is None else '1'} / {_bits(model['input_quantizer'])}",
    }


def _bits(input_quantizer: str | None) -> int:
    """Bits of the inputs of layers."""
    return 32 if input_quantizer is None else onebit.quantizers.INPUT_QUANTIZERS.entry(input_quantizer).bits


def time_steps(protocol: Protocol, methods: Iterable[str], file: Path) -> None:
    """Write the ratio of each method's training step to that of plain torch in the same precision."""
    variants = []
    nets: list[dict[str, Any]] = []
    for method in methods:
        trained = protocol.recipe(method)
        model, optimizer = trained.model, trained.optimizer.name
        nets.append({name: value for name in OF_NET if (value := getattr(model, name)) is not None})
        weights, inputs = model.weight_quantizer, model.input_quantizer
        variants.append(Variant(method, weights, inputs, optimizer=optimizer, activation=model.activation))
    if any(net != nets[0] for net in nets):
        sys.exit(f"{protocol.model}: the methods train nets of different {', '.join(OF_NET)}; time them one by one")
    result = measure(variants=variants, options=nets[0] if nets else {}, **protocol.step)
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def step_ratios(file: Path) -> dict[str, float]:
    """Method -> the ratio that `time_steps` wrote, in the precision of the training; empty if there is none."""
    if not file.exists():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    last = rows[-1]  # bf16 where the machine multiplies it, as a training does
    own = [row for row in rows if all(row[name] == last[name] for name in ("precision", "memory_format"))]
    return {row["variant"]: row["same_precision_ratio"] for row in own}


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def table(protocol: Protocol, folders: dict[str, Path], steps: dict[str, float], before: str = "") -> str:
    """The rows as Markdown; methods that are not trained are marked.

    Args:
        steps: see `step_ratios`.
        before: the present table, whose rows are kept for methods without a run here, but for the step.
    """
    modes = ("latent", "mean", "sample", "ensemble:10")
    found = {name: row(protocol, folder) for name, folder in folders.items()}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in before.splitlines()]
    present = rows[0] if rows else []
    shown = [
        mode for mode in modes if mode in present or any(entry and mode in entry["test"] for entry in found.values())
    ]
    head = ["method", "bits of weights / inputs", "test accuracy, binary (real: real)", *shown]
    head += ["flips, first → last epoch", "step, to plain torch"]
    lines = [head, ["---"] * len(head)]
    kept = {cells[0]: dict(zip(rows[0], cells, strict=True)) for cells in rows[2:]}
    for name, entry in found.items():
        ratio = f"{steps[name]:.2f}" if name in steps else ""
        if entry is None and f"`{name}`" in kept:
            *cells, before_ratio = (kept[f"`{name}`"].get(column, "") for column in head)
            lines.append([*cells, ratio or before_ratio])
            continue
        if entry is None:
            lines.append([f"`{name}`", "", "not yet trained", *[""] * (len(head) - 3)])
            continue
        test = {mode: onebit.report.wording.percent(score["accuracies"]) for mode, score in entry["test"].items()}
        flips = f"{100 * entry['flips_first']:.2f} → {100 * entry['flips_last']:.3f} %" if name != "real" else ""
        ships = f"**{test['binary']}**" if "binary" in test else test["real"]
        others = [test.get(mode, "") for mode in shown]
        lines.append([f"`{name}`", entry["bits"], ships, *others, flips, ratio])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(protocols: dict[str, Protocol], runs: Path) -> None:
    """Write the tables between their markers in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, protocol in protocols.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        present, end, after = rest.partition("<!-- end -->")
        if not (start and end):
            sys.exit(f"{DOCUMENT}: expected <!-- {name} --> and <!-- end -->, each on a line")
        steps = step_ratios(runs / name / STEPS_FILE)
        text = before + start + table(protocol, protocol.folders(runs / name), steps, present) + "\n" + end + after
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"wrote {DOCUMENT}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), help="only this one")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"folder of the run folders (default: {RUNS})")
    parser.add_argument("--table", action="store_true", help="write the document from what was trained, train nothing")
    args = parser.parse_args()
    chosen = {name: PROTOCOLS[name] for name in PROTOCOLS if args.protocol in (None, name)}
    for name, protocol in chosen.items() if not args.table else ():
        folders = protocol.folders(args.runs / name)
        for method in args.methods or folders:
            if row(protocol, folders[method]) is None:
                train(protocol, method, folders[method])
        trained = [method for method, folder in folders.items() if row(protocol, folder) is not None]
        time_steps(protocol, trained, args.runs / name / STEPS_FILE)
    write(chosen, args.runs)


if __name__ == "__main__":
    main()
