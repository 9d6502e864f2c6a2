"""The pictures of docs/images that are drawn from the code or from published figures: python -m tools.pictures [NAME]

quantizers     for each quantizer, the output of forward for one channel of latents or inputs evenly spaced in [−2, 2],
               and the gradient that backward returns for an output gradient of 1
nets, kernels  the ratios in the tables of docs/performance.md
methods        the accuracies of methods in docs/results/methods.json
seconds        the seconds to an accuracy of docs/results.md
size-accuracy  the accuracies in docs/results, over the bytes of the packed file, or of the real weights in float32
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

import onebit
from tools.method_results import METHODS, accuracy_of

drawing = onebit.report.drawing
quantizers = onebit.quantizers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1] / "docs"
POINTS = 400  # an even number: no point at 0, where a jump would be drawn as a slope
COLUMNS = 4
OPTIONS: dict[str, dict[str, Any]] = {"concrete_sign": {"temperature": 0.5}}
"""Arguments of a quantizer whose defaults cannot be drawn: at 1e-10 the gradient is 1e10 or 0."""
PROGRESS = (0.0, 0.5, 1.0)
SHADES = (0.35, 0.6, 1.0)


def make(table: str, name: str) -> quantizers.Quantizer:
    """A quantizer for one channel in its initial state, but with a scale of 1 in place of a random one."""
    kind = (quantizers.WEIGHT_QUANTIZERS if table == "weights" else quantizers.INPUT_QUANTIZERS)[name]
    quantizer = kind(**OPTIONS.get(name, {}))
    if table == "weights":
        quantizer.bind(torch.zeros(1, POINTS))
        with torch.no_grad():
            for parameter in quantizer.parameters():
                parameter.fill_(1)
    else:
        getattr(quantizer, "bind_inputs", lambda channels: None)(1)
        if quantizer.integer_input() is not None:  # a range that the picture shows whole
            with torch.no_grad():
                for parameter in quantizer.parameters():
                    parameter.fill_(1)
    return quantizer.train()


def curves(table: str, quantizer: quantizers.Quantizer) -> tuple[Tensor, Tensor, Tensor]:
    """(x, forward, gradient), each (POINTS,); the gradient of each output with respect to its own input only."""
    x = torch.linspace(-2, 2, POINTS)
    if table == "inputs":  # (N, C)
        given = x[:, None].clone().requires_grad_()
        made = quantizer(given)
        made.sum().backward()
        assert given.grad is not None
        return x, made.detach()[:, 0], given.grad[:, 0]
    # the same channel once for each latent, so that statistics of the channel stay out of the others' way
    channels = x.repeat(POINTS, 1).requires_grad_()
    made = quantizer(channels)
    (gradient,) = torch.autograd.grad(made, channels, torch.eye(POINTS))
    return x, made.detach()[0], gradient.diagonal()


def draw(axes: Axes, table: str, name: str) -> None:
    """One quantizer: forward in blue, gradient in orange, at three stages if a schedule changes it."""
    quantizer = make(table, name)
    follows = bool(quantizers.scheduled(quantizer))
    noisy = quantizer.random
    top = 0.0
    steps = list(zip(PROGRESS, SHADES, strict=True)) if follows else [(0.0, 1.0)]
    for progress, shade in steps:
        quantizer.set_progress(progress)
        x, forward, gradient = curves(table, quantizer)
        if shade == 1:
            axes.plot(x, forward, "." if noisy else "-", color=drawing.COLORS[0], markersize=4)
        axes.plot(x, gradient, "." if noisy else "-", color=drawing.COLORS[1], alpha=shade, markersize=1.5)
        top = max(top, float(gradient.abs().max()))
    axes.axhline(0, color=drawing.GREY, linewidth=0.6)
    axes.set_title(f"{name}, T = {OPTIONS[name]['temperature']:g}" if name in OPTIONS else name)
    axes.set_xlim(-2, 2)
    axes.set_xticks([-2, -1, 0, 1, 2])
    limit = 1.15 * max(1.25, top)
    axes.set_ylim(-max(1.4, 0.14 * limit), limit)


def draw_quantizers(out: Path) -> None:
    """All quantizers of weights, then those of inputs."""
    tables = {"weights": list(quantizers.WEIGHT_QUANTIZERS), "inputs": list(quantizers.INPUT_QUANTIZERS)}
    # one more cell in the last table, for the legend
    heights = {table: math.ceil((len(names) + (table == "inputs")) / COLUMNS) for table, names in tables.items()}
    total = sum(heights.values())
    torch.manual_seed(0)
    with drawing.picture(out, width=9.5, height=1.9 * total + 0.9) as figure:
        parts: Any = figure.subfigures(2, 1, height_ratios=list(heights.values()))
        for (table, names), part in zip(tables.items(), parts, strict=True):
            part.suptitle(f"Quantizers of {table}", x=0.01, ha="left", weight="bold")
            grid = part.subplots(heights[table], COLUMNS, squeeze=False)
            for axes, name in zip(grid.flat, names, strict=False):
                draw(axes, table, name)
            for axes in list(grid.flat)[len(names) :]:
                axes.set_axis_off()
        key = list(grid.flat)[-1]
        key.plot([], color=drawing.COLORS[0], label="forward")
        key.plot([], color=drawing.COLORS[1], label="gradient")
        for progress, shade in zip(PROGRESS[:-1], SHADES[:-1], strict=True):
            key.plot([], color=drawing.COLORS[1], alpha=shade, label=f"at {progress:.0%} of a schedule")
        key.legend(loc="center")


def table_of(page: str, column: str) -> list[dict[str, str]]:
    """The rows of the table of a page whose first column has this name: column -> cell, without bold type."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\u00a0", " ")
    lines = text[text.index(f"| {column} |") :].partition("\n\n")[0].replace("**", "").splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


RIVALS = {"× torch": "torch, float32", "× best float32": "the fastest in float32", "× int8": "onnxruntime, 8 bits"}
"""Column of ratios -> what onebit is compared with."""


def draw_bars(out: Path, groups: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]]) -> None:
    """Title -> labels and ratios, a bar for each ratio."""
    rows = sum(map(len, groups.values()))
    with drawing.picture(out, width=8, height=0.9 + 0.35 * len(groups) + 0.36 * rows) as figure:
        heights = [len(group) + 0.5 for group in groups.values()]
        panels = figure.subplots(len(groups), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axes, (title, group) in zip(panels, groups.items(), strict=True):
            for index, column in enumerate(RIVALS):
                for row, (_, cells) in enumerate(group):
                    if not cells[column]:
                        continue
                    ratio, height = float(cells[column]), row + 0.28 * (index - 1)
                    axes.barh(height, ratio - 1, 0.28, left=1, color=drawing.COLORS[index])
                    side = 1 if ratio >= 1 else -1
                    where: Any = {"xytext": (2 * side, 0), "ha": "left" if side > 0 else "right", "va": "center"}
                    where |= {"textcoords": "offset points", "fontsize": 6, "color": drawing.INK}
                    axes.annotate(cells[column], (ratio, height), **where)
            axes.set_yticks(range(len(group)), [label for label, _ in group])
            axes.set_ylim(len(group) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            axes.set_title(title)
            axes.set_xscale("log")
            drawing.log_ticks(axes.xaxis)
            axes.axvline(1, color=drawing.GREY, linewidth=0.8)
        panels[-1].set_xlabel("times as fast; below 1 the other engine is faster")
        keys = [panels[0].barh(0, 0, color=drawing.COLORS[index]) for index in range(len(RIVALS))]
        figure.legend(keys, RIVALS.values(), loc="outside upper center", ncols=3)


def draw_nets(out: Path) -> None:
    """One image, then the batches."""
    rows = table_of("performance.md", "net | batch")
    one = [(row["net"], row) for row in rows if row["batch"] == "1"]
    many = [(f"{row['net']}, {row['batch']}", row) for row in rows if row["batch"] != "1"]
    draw_bars(out, {"one image": one, "a batch": many})


def draw_kernels(out: Path) -> None:
    """Layers by what is multiplied."""
    groups: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for row in table_of("performance.md", "product | batch"):
        product, _, layer = row["product"].rpartition(", dense")
        if not product:
            product, _, layer = row["product"].rpartition(", 3×3")
        kind = "dense" if ", dense" in row["product"] else "3×3"
        groups.setdefault(product, []).append((f"{kind}{layer}, batch {row['batch']}", row))
    draw_bars(out, groups)


PROTOCOLS = {
    "mlp": "MNIST, 784–512–512–10",
    "resnet20": "CIFAR-10, ResNet-20, 1-bit weights",
    "resnet20-signs": "with shortcuts, signs as activations",
    "resnet20-weights": "with shortcuts, real activations",
}


def draw_methods(out: Path) -> None:
    """A point for each method, the best first, with its standard deviation over the seeds."""
    record = json.loads((DOCS.parent / METHODS).read_text(encoding="utf-8"))
    with drawing.picture(out, width=9, height=6.2) as figure:
        grid = figure.subplots(2, 2, height_ratios=[14, 8])
        panels = [grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1]]
        for axes, (protocol, title) in zip(panels, PROTOCOLS.items(), strict=True):
            figures = {name: accuracy_of(entry).split(" ± ") for name, entry in record[protocol].items()}
            names = sorted(figures, key=lambda name: -float(figures[name][0]))
            for row, name in enumerate(names):
                mean, deviation = map(float, figures[name])
                color = drawing.REAL if name == "real" else drawing.COLORS[0]
                axes.errorbar(mean, row, xerr=deviation, fmt="o", color=color, capsize=2)
                where: Any = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "fontsize": 6.5}
                axes.annotate(figures[name][0], (mean, row), color=drawing.INK, **where)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.8)
            axes.set_title(title)
            axes.set_xlabel("test accuracy in %")


def draw_seconds(out: Path) -> None:
    """Accuracy over the seconds of training."""
    rows = table_of("results.md", "target")
    seconds, accuracies = ([float(row[key].split()[0]) for row in rows] for key in ("training", "accuracy"))
    with drawing.picture(out, width=6.5, height=3.4) as figure:
        axes = figure.subplots()
        axes.plot(seconds, accuracies, "o-", color=drawing.COLORS[0])
        for second, accuracy in zip(seconds, accuracies, strict=True):
            label: Any = {"xytext": (7, -8), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(f"{accuracy:.2f} % in {second:.2f} s", (second, accuracy), **label)
        axes.set_xscale("log")
        drawing.log_ticks(axes.xaxis)
        axes.set_xlim(min(seconds) * 0.8, max(seconds) * 2.5)
        axes.set_ylim(min(accuracies) - 0.7, max(accuracies) + 0.5)
        axes.set_xlabel("seconds of training on one CPU thread")
        axes.set_ylabel("test accuracy in %")
        axes.set_title("Binary nets on MNIST, median of five seeds")


DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
KINDS = {
    "real weights": drawing.REAL,
    "1-bit weights": drawing.COLORS[0],
    "1-bit weights and activations": drawing.COLORS[1],
}
NAMED = {
    "mnist-fast": ("784–512–512–10", "left", 4),
    "mnist-fast-large": ("784–3×1024–10", "left", 4),
    "mnist-real": ("784–3×2048–10", "right", -14),
    "mnist-binaryconnect": ("784–3×2048–10", "left", 0),
    "mnist-tutorial": ("784–512–10", "left", 4),
    "cifar10-resnet20-real-taught": ("ResNet-20", "right", 4),
    "cifar10-resnet20-wide-real-continued": ("twice the width", "right", 4),
    "cifar10-resnet20-binaryconnect-ends-real-continued": ("ResNet-20", "left", 4),
    "cifar10-binaryconnect-short": ("BinaryConnect's CNN", "right", -12),
    "cifar10-resnet20-signs": ("ResNet-20", "left", 4),
    "cifar10-vgg-bnn-short": ("VGG-small, ¼ width", "left", 4),
    "cifar10-resnet18-bnn-short": ("ResNet-18, ¼ width", "left", 4),
    "cifar10-alexnet-bnn-short": ("AlexNet, ¼ width", "left", 4),
}
"""Points with a label: its text, its side at the point, and how much higher it is."""


def sizes() -> dict[str, list[tuple[str, str, int, float]]]:
    """Data set -> (recipe, kind, bytes, test accuracy in %) of each result."""
    found: dict[str, list[tuple[str, str, int, float]]] = {name: [] for name in DATA}
    packed: dict[str, int] = {}
    for file in sorted((DOCS / "results").glob("*/result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["dataset"] not in DATA:
            continue
        recipe = onebit.recipe.build_recipe(onebit.recipe.read_settings(file.parent / "recipe.yaml"), {})
        data = onebit.data.DATASETS[recipe.dataset]
        assert data.input_shape
        assert data.classes
        key = repr(recipe.model)
        if key not in packed:
            model = onebit.runs.model.build_model(recipe.model, input_shape=data.input_shape, classes=len(data.classes))
            if recipe.model.weight_quantizer is None:
                packed[key] = sum(4 * tensor.numel() for tensor in model.parameters())
            else:
                packed[key] = len(onebit.packed.dumps(onebit.pack(model.eval())))
        score = result["test"].get("binary") or result["test"]["real"]
        accuracy = 100 * sum(score["correct"]) / len(score["correct"]) / score["count"]
        bits = recipe.model.input_quantizer and onebit.quantizers.INPUT_QUANTIZERS.entry(recipe.model.input_quantizer)
        kind = list(KINDS)[0 if recipe.model.weight_quantizer is None else 2 if bits and bits.bits == 1 else 1]
        found[result["dataset"]].append((file.parent.name, kind, packed[key], accuracy))
    return found


def draw_sizes(out: Path) -> None:
    """A point for each result."""
    with drawing.picture(out, width=9, height=3.8) as figure:
        panels = figure.subplots(1, 2)
        for axes, (dataset, results) in zip(panels, sizes().items(), strict=True):
            for kind, color in KINDS.items():
                points = [(size / 1000, accuracy) for _, of, size, accuracy in results if of == kind]
                axes.plot(*zip(*points, strict=True), "o", color=color, alpha=0.75, label=kind)
            for name, _, size, accuracy in results:
                if name in NAMED:
                    text, side, up = NAMED[name]
                    where: Any = {"xytext": (7 if side == "left" else -7, up), "textcoords": "offset points"}
                    axes.annotate(text, (size / 1000, accuracy), ha=side, fontsize=8, **where)
            axes.set_xscale("log")
            drawing.log_ticks(axes.xaxis, subs=(1, 3))
            axes.margins(x=0.1, y=0.08)
            axes.set_title(DATA[dataset])
            axes.set_xlabel("size of the net in kB")
        panels[0].set_ylabel("test accuracy in %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)


PICTURES = {
    "quantizers": draw_quantizers,
    "nets": draw_nets,
    "kernels": draw_kernels,
    "methods": draw_methods,
    "seconds": draw_seconds,
    "size-accuracy": draw_sizes,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PICTURES)} (all)")
    parser.add_argument("--out", type=Path, default=DOCS / "images", help="folder (docs/images)")
    arguments = parser.parse_args(argv)
    for name in arguments.names or PICTURES:
        out = arguments.out / f"{name}.png"
        PICTURES[name](out)
        # few colors: a third of the bytes
        Image.open(out).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main()
