"""The pictures of docs/images that are drawn from the code or from published figures: python -m tools.pictures [NAME]

quantizers     for each quantizer, the output of forward for one channel of latents or inputs evenly spaced in [−2, 2],
               and the gradient that backward returns for an output gradient of 1
nets, kernels  the ratios in the tables of docs/performance.md
methods        the accuracies of methods in docs/results/methods.json
seconds        the seconds to an accuracy of docs/results.md
size-accuracy  the accuracies in docs/results, over the bytes of the packed file, or of the real weights in float32
filters        the signs of the first layer of mnist-mlp, a tile for each hidden unit
house          the rooms of the package with their lines, and an arc for each import
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import onebit
from tools import results
from tools.sizes import PACKAGE, arrows

drawing = onebit.report.drawing
quantizers = onebit.quantizers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = DOCS / "images"
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
    else:
        getattr(quantizer, "bind_inputs", lambda channels: None)(1)
    if table == "weights" or quantizer.integer_input() is not None:  # a range that the picture shows whole
        for parameter in quantizer.parameters():
            torch.nn.init.ones_(parameter)
    return quantizer.train()


def curves(table: str, quantizer: quantizers.Quantizer) -> tuple[Tensor, Tensor, Tensor]:
    """(x, forward, gradient), each (POINTS,); the gradient of each output with respect to its own input only."""
    x = torch.linspace(-2, 2, POINTS)
    # weights: the same channel once for each latent, so that statistics of the channel stay out of the others' way
    given = (x[:, None].clone() if table == "inputs" else x.repeat(POINTS, 1)).requires_grad_()
    made = quantizer(given)
    own = torch.ones(POINTS, 1) if table == "inputs" else torch.eye(POINTS)
    (gradient,) = torch.autograd.grad(made, given, own)
    return x, made.detach().flatten()[:POINTS], gradient[own > 0]


def draw_quantizer(axes: Axes, table: str, name: str) -> None:
    """One quantizer: forward in blue, gradient in orange, at three stages if a schedule changes it."""
    quantizer = make(table, name)
    noisy, top = quantizer.random, 0.0
    stages = zip(PROGRESS, SHADES, strict=True) if quantizers.scheduled(quantizer) else [(0.0, 1.0)]
    for progress, shade in stages:
        quantizer.set_progress(progress)
        x, forward, gradient = curves(table, quantizer)
        if shade == 1:
            axes.plot(x, forward, "." if noisy else "-", color=drawing.COLORS[0], markersize=4)
        axes.plot(x, gradient, "." if noisy else "-", color=drawing.COLORS[1], alpha=shade, markersize=1.5)
        top = max(top, float(gradient.abs().max()))
    axes.axhline(0, color=drawing.GREY, linewidth=0.6)
    title = f"{name}, T = {OPTIONS[name]['temperature']:g}" if name in OPTIONS else name
    limit = 1.15 * max(1.25, top)
    axes.set(title=title, xlim=(-2, 2), xticks=range(-2, 3), ylim=(-max(1.4, 0.14 * limit), limit))


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
                draw_quantizer(axes, table, name)
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


def label(axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """A text at an offset in points from a point."""
    axes.annotate(text, point, xytext=offset, textcoords="offset points", **style)


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
                    offset, side = (2, "left") if ratio >= 1 else (-2, "right")
                    label(axes, cells[column], (ratio, height), (offset, 0), ha=side, va="center", fontsize=6)
            axes.set_yticks(range(len(group)), [label for label, _ in group])
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            axes.set(ylim=(len(group) - 0.4, -0.6), title=title, xscale="log")
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
        product, layer = re.split(", (?=dense|3×3)", row["product"])
        groups.setdefault(product, []).append((f"{layer}, batch {row['batch']}", row))
    draw_bars(out, groups)


PROTOCOLS = {
    "mlp": "MNIST, 784–512–512–10",
    "resnet20": "CIFAR-10, ResNet-20, 1-bit weights",
    "resnet20-signs": "with shortcuts, signs as activations",
    "resnet20-weights": "with shortcuts, real activations",
}


def draw_methods(out: Path) -> None:
    """A point for each method, the best first, with its standard deviation over the seeds."""
    record = results.load(results.METHODS)
    with drawing.picture(out, width=9, height=6.2) as figure:
        grid = figure.subplots(2, 2, height_ratios=[14, 8])
        for axes, (protocol, title) in zip(grid.flat, PROTOCOLS.items(), strict=True):
            figures = {name: results.accuracy_of(entry).split(" ± ") for name, entry in record[protocol].items()}
            names = sorted(figures, key=lambda name: -float(figures[name][0]))
            for row, name in enumerate(names):
                mean, deviation = map(float, figures[name])
                color = drawing.REAL if name == "real" else drawing.COLORS[0]
                axes.errorbar(mean, row, xerr=deviation, fmt="o", color=color, capsize=2)
                label(axes, figures[name][0], (mean, row), (0, 5), ha="center", fontsize=6.5)
            axes.set_yticks(range(len(names)), names)
            axes.set(ylim=(len(names) - 0.5, -0.8), title=title, xlabel="test accuracy in %")


def draw_seconds(out: Path) -> None:
    """Accuracy over the seconds of training."""
    rows = table_of("results.md", "target")
    seconds, accuracies = ([float(row[key].split()[0]) for row in rows] for key in ("training", "accuracy"))
    with drawing.picture(out, width=6.5, height=3.4) as figure:
        axes = figure.subplots()
        axes.plot(seconds, accuracies, "o-", color=drawing.COLORS[0])
        for second, accuracy in zip(seconds, accuracies, strict=True):
            label(axes, f"{accuracy:.2f} % in {second:.2f} s", (second, accuracy), (7, -8), fontsize=8)
        axes.set(xscale="log", xlabel="seconds of training on one CPU thread", ylabel="test accuracy in %")
        axes.set(title="Binary nets on MNIST, median of five seeds")
        axes.set(xlim=(min(seconds) * 0.8, max(seconds) * 2.5), ylim=(min(accuracies) - 0.7, max(accuracies) + 0.5))
        drawing.log_ticks(axes.xaxis)


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
    "cifar10-resnet20-real-taught": ("ResNet-20", "left", -8),
    "cifar10-resnet20-wide-real-continued": ("twice the width", "right", 4),
    "cifar10-resnet20-binaryconnect-ends-real-continued": ("ResNet-20", "left", 4),
    "cifar10-binaryconnect-half": ("BinaryConnect's CNN", "right", 4),
    "cifar10-resnet20-signs": ("ResNet-20", "left", 4),
    "cifar10-vgg-bnn-short": ("VGG-small, ¼ width", "left", 4),
    "cifar10-resnet18-bnn-short": ("ResNet-18, ¼ width", "left", 4),
    "cifar10-alexnet-bnn-short": ("AlexNet, ¼ width", "left", 4),
}
"""Points with a label: its text, its side at the point, and how much higher it is."""


def nets_of(dataset: str) -> list[tuple[str, str, float, float]]:
    """(recipe, kind, kilobytes, test accuracy in %) of each result on a data set."""
    found = []
    for name, result in results.results().items():
        if result["dataset"] != dataset:
            continue
        recipe = results.stored_recipe(name)
        data: Any = onebit.data.DATASETS[dataset]
        model = onebit.runs.model.build_model(recipe.model, input_shape=data.input_shape, classes=len(data.classes))
        weights, inputs = results.bits_of(recipe).split("/")
        if weights == "32":
            kind, size = "real weights", sum(4 * tensor.numel() for tensor in model.parameters())
        else:
            kind = "1-bit weights and activations" if inputs == "1" else "1-bit weights"
            size = len(onebit.packed.dumps(onebit.pack(model.eval())))
        score = result["test"].get("binary") or result["test"]["real"]
        found.append((name, kind, size / 1000, 100 * np.mean(score["correct"]) / score["count"]))
    return found


def draw_sizes(out: Path) -> None:
    """A point for each result."""
    with drawing.picture(out, width=9, height=3.8) as figure:
        panels = figure.subplots(1, 2)
        for axes, (dataset, title) in zip(panels, DATA.items(), strict=True):
            nets = nets_of(dataset)
            for kind, color in KINDS.items():
                points = [(size, accuracy) for _, of, size, accuracy in nets if of == kind]
                axes.plot(*zip(*points, strict=True), "o", color=color, alpha=0.75, label=kind)
            for name, _, size, accuracy in nets:
                if name in NAMED:
                    text, side, up = NAMED[name]
                    label(axes, text, (size, accuracy), (7 if side == "left" else -7, up), ha=side, fontsize=8)
            axes.set(xscale="log", title=title, xlabel="size of the net in kB")
            drawing.log_ticks(axes.xaxis, subs=(1, 3))
            axes.margins(x=0.1, y=0.08)
        panels[0].set_ylabel("test accuracy in %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)


def draw_filters(out: Path) -> None:
    """Sixteen by four tiles of 28 by 28 signs."""
    dense = next(node for node in onebit.load("mnist-mlp").nodes if isinstance(node, onebit.packed.Dense))
    signs = onebit.packed.bits.unpack_signs(dense.signs, 784).reshape(-1, 28, 28)[:64]
    framed = np.pad(np.where(signs > 0, 235, 45), ((0, 0), (1, 1), (1, 1)), constant_values=140)
    sheet = framed.reshape(4, 16, 30, 30).transpose(0, 2, 1, 3).reshape(120, 480)
    Image.fromarray(sheet.astype(np.uint8)).resize((1440, 360), Image.Resampling.NEAREST).save(out)


def floors(pairs: set[tuple[str, str]]) -> list[str]:
    """All rooms, each after those that it imports."""
    below = {above: sorted(under for room, under in pairs if room == above) for above, _ in sorted(pairs)}
    return [*TopologicalSorter(below).static_order()]


def draw_house(out: Path) -> None:
    """Each room with its lines, and an arc for each room that it imports."""
    pairs = {(above, under) for above, under in arrows() if not above.startswith("__")}
    rooms = floors(pairs)
    files = [[*PACKAGE.glob(f"{room}.py"), *(PACKAGE / room).rglob("*.py")] for room in rooms]
    lines = [sum(len(path.read_text(encoding="utf-8").splitlines()) for path in of) for of in files]
    with drawing.picture(out, width=8, height=6.5) as figure:
        axes, arcs = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
        axes.barh(range(len(rooms)), lines, color=drawing.COLORS[0])
        axes.set_yticks(range(len(rooms)), rooms)
        axes.set_xlabel("lines of Python")
        turn = np.linspace(0, np.pi, 40)
        for above, under in pairs:
            top, bottom = rooms.index(above), rooms.index(under)
            x, y = (top - bottom) / 2 * np.sin(turn), (top + bottom) / 2 + (top - bottom) / 2 * np.cos(turn)
            arcs.plot(x, y, color=drawing.COLORS[1], alpha=0.35, linewidth=0.8)
        arcs.set_axis_off()
        arcs.set_title("imports, all downwards", loc="left")


PICTURES = {
    "quantizers": draw_quantizers,
    "nets": draw_nets,
    "kernels": draw_kernels,
    "methods": draw_methods,
    "seconds": draw_seconds,
    "size-accuracy": draw_sizes,
    "filters": draw_filters,
    "house": draw_house,
}


def draw(name: str, folder: Path = IMAGES) -> Path:
    """The file of a picture, in few colors: a third of the bytes."""
    out = folder / f"{name}.png"
    PICTURES[name](out)
    Image.open(out).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, optimize=True)
    return out


if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        draw(name)
