"""The picture of docs/quantizers.md: python tools/quantizer_pictures.py

Every weight and input quantizer of the tables, evaluated: what forward makes of one channel of latents, or of inputs,
that are spread evenly over [−2, 2], and what backward makes of a gradient of 1 at each of them.
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

from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, Quantizer, scheduled
from onebit.report.drawing import COLORS, GREY, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 400  # even: none lies at 0, where a step would be drawn as a slope
COLUMNS = 4
OPTIONS = {"concrete_sign": {"temperature": 0.5}}
"""Arguments of a quantizer whose defaults cannot be drawn: at 1e-10 the gradient is 1e10 or nothing."""
PROGRESS = (0.0, 0.5, 1.0)
SHADES = (0.35, 0.6, 1.0)


def make(table: str, name: str) -> Quantizer:
    """A quantizer for one channel, in the state in which training begins, but for a scale of 1 in place of random."""
    kind = {"weights": WEIGHT_QUANTIZERS, "inputs": INPUT_QUANTIZERS}[table][name]
    quantizer = kind(**OPTIONS.get(name, {}))
    if table == "weights":
        quantizer.bind(torch.zeros(1, POINTS))
        with torch.no_grad():
            for parameter in quantizer.parameters():
                parameter.fill_(1)
    else:
        getattr(quantizer, "bind_inputs", lambda channels: None)(1)
    return quantizer.train()


def curves(table: str, quantizer: Quantizer) -> tuple[Tensor, Tensor, Tensor]:
    """(x, forward, own gradient), each (POINTS,): of each value only what its own gradient of 1 gives back to it."""
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
    """One quantizer: forward in blue, gradient in orange, three times where a schedule changes it."""
    quantizer = make(table, name)
    follows = bool(scheduled(quantizer))
    noisy = quantizer.random
    top = 0.0
    steps = list(zip(PROGRESS, SHADES, strict=True)) if follows else [(0.0, 1.0)]
    for progress, shade in steps:
        quantizer.set_progress(progress)
        x, forward, gradient = curves(table, quantizer)
        if shade == 1:
            axes.plot(x, forward, "." if noisy else "-", color=COLORS[0], markersize=4)
        axes.plot(x, gradient, "." if noisy else "-", color=COLORS[1], alpha=shade, markersize=1.5)
        top = max(top, float(gradient.abs().max()))
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set_title(f"{name}, T = {OPTIONS[name]['temperature']:g}" if name in OPTIONS else name)
    axes.set_xlim(-2, 2)
    axes.set_xticks([-2, -1, 0, 1, 2])
    limit = 1.15 * max(1.25, top)
    axes.set_ylim(-max(1.4, 0.14 * limit), limit)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/quantizers.png"), help="file (%(default)s)")
    out = parser.parse_args(argv).out
    tables = {"weights": list(WEIGHT_QUANTIZERS), "inputs": list(INPUT_QUANTIZERS)}
    # of the last table one place more, for the key
    heights = {table: math.ceil((len(names) + (table == "inputs")) / COLUMNS) for table, names in tables.items()}
    total = sum(heights.values())
    torch.manual_seed(0)
    with picture(out, width=9.5, height=1.9 * total + 0.9) as figure:
        parts: Any = figure.subfigures(2, 1, height_ratios=list(heights.values()))
        for (table, names), part in zip(tables.items(), parts, strict=True):
            part.suptitle(f"Quantizers of {table}", x=0.01, ha="left", weight="bold")
            grid = part.subplots(heights[table], COLUMNS, squeeze=False)
            for axes, name in zip(grid.flat, names, strict=False):
                draw(axes, table, name)
            for axes in list(grid.flat)[len(names) :]:
                axes.set_axis_off()
        key = list(grid.flat)[-1]
        key.plot([], color=COLORS[0], label="forward")
        key.plot([], color=COLORS[1], label="gradient")
        for progress, shade in zip(PROGRESS[:-1], SHADES[:-1], strict=True):
            key.plot([], color=COLORS[1], alpha=shade, label=f"at {progress:.0%} of a schedule")
        key.legend(loc="center")
    # few colours: a third of the bytes
    Image.open(out).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main()
