"""What `tools.results` states of the methods: bits, accuracy, flips and the time of a training step."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import onebit
from benchmarks import training_step
from onebit.cli.train_command import read_command, train_request

recipe, wording = onebit.recipe, onebit.report.wording

METHODS = Path("docs/results/methods.json")
RUNS = Path("runs/methods")
SEEDS = ("0", "1", "2")
UNTRAINED = "not yet trained"
"""`measured` of a recipe that is not trained yet."""


def bits_of(weights: str | None, inputs: str | None, bits: int | None = None) -> str:
    """Bits of weights and inputs: "1/32"."""
    if inputs is not None and bits is None:
        bits = onebit.quantizers.INPUT_QUANTIZERS.entry(inputs).bits
    return f"{32 if weights is None else 1}/{bits or 32}"


def recipe_of(entry: Mapping[str, Any]) -> recipe.Recipe:
    """The recipe of the command of a row."""
    return train_request(read_command(shlex.split(entry["command"])[1:]))


def train_methods(record: dict[str, dict[str, Any]]) -> None:
    """Train the seeds that the record lacks, then time a step of each method."""
    for protocol, entries in record.items():
        for method, entry in entries.items():
            folder = RUNS / protocol / method
            if missing := [seed for seed in SEEDS if seed not in entry["seeds"]]:
                resume = ["--resume"] if folder.exists() else []
                words = [*shlex.split(entry["command"]), "--seeds", ",".join(missing), "--out", str(folder), *resume]
                subprocess.run([sys.executable, "-m", "onebit", *words], check=True)
                entry["seeds"] = dict(sorted((entry["seeds"] | measured_seeds(folder)).items()))
                entry.pop("before", None)
        for method, ratio in time_steps(entries).items():
            entries[method]["step"] = round(ratio, 4)
    METHODS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measured_seeds(folder: Path) -> dict[str, Any]:
    """Seed -> the results of its finished run."""
    found = {}
    for file in sorted(folder.glob("seed-*/result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        log = (file.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        flips = [round(json.loads(row)["flip_ratio"], 6) for row in (log[0], log[-1])]
        scores = {mode: {key: score[key] for key in ("correct", "count")} for mode, score in result["test"].items()}
        found[str(result["seed"])] = {"test": scores, "flip_ratios": flips}
    return found


def time_steps(entries: Mapping[str, Any], **turns: Any) -> dict[str, float]:
    """Method -> the ratio of its training step to that of plain torch, in bf16 where the machine multiplies it."""
    how: dict[str, Any] = {"device": torch.device("cpu"), "rounds": 11, "seconds": 0.2, **turns}
    how["mode"] = training_step.MODES["eager"]
    how["precision"] = "bf16" if onebit.train.precision.multiplies_bf16(how["device"]) else "fp32"
    steps = {}
    for method, entry in entries.items():
        trained = recipe_of(entry)
        steps[method] = training_step.compare(trained, training_step.NETS[trained.model.name], **how)["ratio"]
    return steps


def accuracy_of(entry: Mapping[str, Any]) -> str:
    """Test accuracy in % over the seeds, "97.94 ± 0.06", of what ships; "" if untrained.

    `before` has the text of runs whose single figures were not kept.
    """
    if before := entry.get("before"):
        return str(before.get("binary") or before["real"]).removesuffix(" %")
    scores = [run["test"].get("binary") or run["test"]["real"] for run in entry["seeds"].values()]
    shares = [score["correct"] / score["count"] for score in scores]
    return str(wording.percent(shares)).removesuffix(" %") if shares else ""


def methods_table(entries: Mapping[str, Any]) -> str:
    """The rows of a protocol as Markdown; untrained methods are marked."""
    lines = ["| method | bits | test accuracy in % | step |", "|---|---|---:|---:|"]
    for method, entry in entries.items():
        model, step = recipe_of(entry).model, entry.get("step")
        bits = bits_of(model.weight_quantizer, model.input_quantizer)
        timed = "" if step is None else f"{step:.2f}"
        lines.append(f"| `{method}` | {bits} | {accuracy_of(entry) or UNTRAINED} | {timed} |")
    return "\n".join(lines)
