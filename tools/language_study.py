"""Perplexity of small language models by method, width and seed: python -m tools.language_study --home FOLDER

    python -m tools.language_study --home FOLDER --publish   copies finished runs to docs/results/language.json, draws
                                                             docs/images/language.png, prints the table of the guide

All runs of a seed see the same tokens, 400 batches of 16 rows of the text of examples/language_model.py. Finished runs,
one JSON file each in FOLDER, are not trained again. Needs transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import onebit
from onebit.layers import binary_layers
from onebit.quantizers import WEIGHT_QUANTIZERS
from onebit.report.drawing import picture
from onebit.train.schedules import schedule_factor

RESULTS, PICTURE = Path("docs/results/language.json"), Path("docs/images/language.png")
STEPS, ROWS, WARMUP, RATE = 400, 16, 40, 2e-3
METHODS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "float": (None, {}),
    "magnitude_aware": ("magnitude_aware", {}),
    "magnitude_aware, groups of 128": ("magnitude_aware", {"group": 128}),
    "xnor": ("xnor", {}),
    "xnor, groups of 128": ("xnor", {"group": 128}),
    "sign": ("sign", {}),
    (FROM_FLOAT := "magnitude_aware, from the float net"): ("magnitude_aware", {}),
}


class Run(NamedTuple):
    """One training."""

    method: str
    width: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.method.replace(', ', '-').replace(' ', '-')}-{self.width}-{self.seed}.json"


def planned() -> Iterator[Run]:
    """In order of worth. Float nets of 128 and 192 have the bytes of a net of 512 with one-bit weights."""
    for seed in range(3):
        for width in (256, 512):
            yield from (Run(method, width, seed) for method in METHODS)
        yield from (Run("float", width, seed) for width in (128, 192))


def train(run: Run, model: Any, rows: Any, held_out: Any) -> dict[str, Any]:
    quantizer, options = METHODS[run.method]
    if run.method == FROM_FLOAT:
        train(run._replace(method="float"), model, rows, held_out)
    if quantizer is not None:
        made = WEIGHT_QUANTIZERS[quantizer](**options)
        onebit.binarize_(model, weight_quantizer=made)
    groups = onebit.latent_groups(model, lr=RATE)
    optimizer = onebit.clip_latents_(torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0))
    factor = schedule_factor("cosine", total_steps=STEPS, warmup_steps=WARMUP, final=0.1)
    curve, started = [], time.perf_counter()

    def note(step: int, steps: int) -> None:
        if step in (25, 50, 100, 200, 300, steps):
            score = onebit.evaluate(model, held_out, loss="next_token", batch_size=ROWS, verbose=False)
            curve.append((step, round(score.loss, 5)))
            print(run, step, round(score.metrics["perplexity"], 3), flush=True)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    onebit.fit(
        model, rows[: STEPS * ROWS], optimizer, epochs=1, schedule=schedule, batch_size=ROWS, clip_grad_norm=1.0,
        loss="next_token", seed=run.seed, on_step=note, verbose=False,
    )  # fmt: skip
    binary = sum(layer.weight.numel() for _, layer in binary_layers(model))
    real = sum(parameter.numel() for parameter in model.parameters()) - binary
    return {**run._asdict(), "curve": curve, "binary": binary, "real": real, "seconds": time.perf_counter() - started}


def megabytes(run: Mapping[str, Any]) -> float:
    """Size in GGUF: 18 bytes for 128 binary weights, 34 for 32 others in Q8_0."""
    return (run["binary"] * 18 / 128 + run["real"] * 34 / 32) / 1e6


def grouped(runs: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str], list[Mapping[str, Any]]]:
    """The runs of all seeds by width and method."""
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault((run["width"], run["method"]), []).append(run)
    order = [*METHODS]
    return dict(sorted(found.items(), key=lambda item: (item[0][0], order.index(item[0][1]))))


def table(runs: Iterable[Mapping[str, Any]]) -> str:
    """Held-out perplexity with binary weights after the last step, one number for each seed, as Markdown."""
    lines = ["| width | weights | MB in GGUF | perplexity of each seed |", "|---|---|---|---|"]
    for (width, method), found in grouped(runs).items():
        values = " / ".join(f"{math.exp(run['curve'][-1][1]):.1f}" for run in found)
        lines.append(f"| {width} | {method} | {megabytes(found[0]):.2f} | {values} |")
    return "\n".join(lines)


def draw(runs: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Perplexity over steps at width 256, and of each width over the size of the file."""
    by_kind = grouped(runs)
    with picture(path, width=9, height=4) as figure:
        curves, sizes = figure.subplots(1, 2)
        for (width, method), found in by_kind.items():
            steps = [step for step, _ in found[0]["curve"]]
            means = [math.exp(statistics.mean(run["curve"][k][1] for run in found)) for k in range(len(steps))]
            color = f"C{[*METHODS].index(method)}"
            if width == 256:
                curves.plot(steps, means, "o-", color=color, label=method, markersize=3)
            if method not in ("sign", FROM_FLOAT):  # far above the others; saw the text twice
                sizes.plot(megabytes(found[0]), means[-1], "o", color=color)
                sizes.annotate(
                    str(width) if method in ("float", "magnitude_aware") else "",
                    (megabytes(found[0]), means[-1]),
                    (4, 4),
                    textcoords="offset points",
                )
        curves.set(xlabel="steps of 2,048 tokens", ylabel="held-out perplexity", yscale="log")
        curves.set_yticks(ticks := [30, 50, 100, 200, 400], list(map(str, ticks)))
        curves.minorticks_off()
        sizes.set(xlabel="MB in GGUF; the numbers are widths", ylabel="held-out perplexity")
        figure.legend(*curves.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize="small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 192, 256, 512])
    parser.add_argument("--methods", nargs="+", default=[*METHODS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--publish", action="store_true")
    args = parser.parse_args()
    if args.publish:
        runs = [json.loads(file.read_text()) for run in planned() if (file := args.home / run.file).exists()]
        RESULTS.write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n")
        draw(runs, PICTURE)
        print(table(runs))
        return
    torch.set_num_threads(1)
    args.home.mkdir(parents=True, exist_ok=True)
    example = runpy.run_path("examples/language_model.py")
    rows, held_out = example["read_rows"](None)
    for run in planned():
        file = args.home / run.file
        if not file.exists() and run.width in args.widths and run.method in args.methods and run.seed in args.seeds:
            file.write_text(json.dumps(train(run, example["make_llama"](run.width, run.seed), rows, held_out)) + "\n")


if __name__ == "__main__":
    main()
