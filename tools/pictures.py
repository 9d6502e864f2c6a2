"""The picture of docs/quantizers.md: python tools/pictures.py

For each weight and input quantizer: the output of forward for one channel of latents, or inputs, evenly spaced in
[−2, 2], and the gradient that backward returns for an output gradient of 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

import onebit

drawing = onebit.report.drawing
quantizers = onebit.quantizers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/quantizers.png"), help="file (%(default)s)")
    out = parser.parse_args(argv).out
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
    # few colors: a third of the bytes
    Image.open(out).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main()
