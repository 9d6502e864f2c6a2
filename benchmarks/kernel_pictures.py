"""Pictures of `python -m benchmarks kernels`: a bar for each ratio, or ratios over the size of a layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import onebit
from benchmarks.layers import KINDS

drawing = onebit.report.drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = {"torch": "torch, float32", "best": "the fastest in float32", "int8": "onnxruntime, 8 bits"}
_BAR = 0.27  # of the height of a layer


def open_picture(path: str | os.PathLike[str], layers: int, *, scaling: bool) -> AbstractContextManager[Figure]:
    """An empty figure for this number of layers and batches, see `drawing.picture`."""
    return drawing.picture(path, width=8, height=3.8 if scaling else 1.4 + 0.3 * layers)


def draw(figure: Figure, result: dict[str, Any]) -> None:
    """Draw the results of the last, and best, instruction set."""
    isa = result["rows"][-1]["instruction_set"]
    drawn = [row for row in result["rows"] if row["instruction_set"] == isa]
    kinds = list(dict.fromkeys(row["kind"] for row in drawn))
    rows = [[row for row in drawn if row["kind"] == kind] for kind in kinds]
    if result["machine"]["threads"] == 1:
        figure.suptitle(f"one thread of {result['machine']['cpu']}")
    if result["settings"]["scaling"]:
        grid = figure.subplots(1, len(kinds), squeeze=False, sharey=True)
        for axes, of in zip(grid[0], rows, strict=True):
            _draw_curve(axes, of)
        grid[0, 0].set_ylabel("times as fast as the fastest in float32")
        _legend(figure, grid[0, 0])
        return
    grid = figure.subplots(len(kinds), squeeze=False, sharex=True, height_ratios=[1 + len(of) for of in rows])
    for axes, of in zip(grid[:, 0], rows, strict=True):
        _draw_bars(axes, of)
    grid[-1, 0].set_xlabel("times as fast; left of 1 the other engine is faster")
    _legend(figure, grid[0, 0])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _draw_bars(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for index, (name, label) in enumerate(BARS.items()):
        there = [(place, row[f"{name}_speedup"]) for place, row in enumerate(rows) if row[f"{name}_speedup"]]
        if not there:
            continue
        places, ratios = zip(*there, strict=True)
        heights = [place + (index - 1) * _BAR for place in places]
        axes.barh(
            heights,
            [ratio - 1 for ratio in ratios],
            _BAR,
            left=1,
            color=drawing.COLORS[index],
            label=label,
        )
        for height, ratio in zip(heights, ratios, strict=True):
            text, right = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}", ratio >= 1
            where: Any = {"xytext": (2 if right else -2, 0), "ha": "left" if right else "right", "va": "center"}
            axes.annotate(
                text,
                (ratio, height),
                **where,
                textcoords="offset points",
                fontsize=5.5,
                color=drawing.INK,
            )
    axes.set_yticks(range(len(rows)), [f"{row['layer']}, batch {row['batch']}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{KINDS[rows[0]['kind']]}, {rows[0]['instruction_set']}")
    _ratio_axis(axes, "x")
    axes.axvline(1, color=drawing.GREY, linewidth=0.8)


def _draw_curve(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    for index, batch in enumerate(batches):
        of = [row for row in rows if row["batch"] == batch]
        sizes, ratios = [row["size"] for row in of], [row["best_speedup"] for row in of]
        axes.plot(
            sizes,
            ratios,
            marker="o",
            markersize=3,
            color=drawing.curve_color(index, len(batches)),
            label=f"batch {batch}",
        )
    sizes = sorted({row["size"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size}" for size in sizes])
    axes.set_xlabel("inputs and outputs of a dense layer")
    axes.set_title(f"{KINDS[rows[0]['kind']]}, {rows[0]['instruction_set']}")
    _ratio_axis(axes, "y")
    axes.axhline(1, color=drawing.GREY, linewidth=0.8)


def _ratio_axis(axes: Axes, which: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
