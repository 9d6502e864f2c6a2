"""Parts shared by all pictures: a figure without global state, colorblind-safe colors, axes and legends."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from onebit.common.files import OWN, atomic_path
from onebit.common.moved import renamed
from onebit.errors import UsageError
from onebit.report.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

DPI = 150
LOG_RANGE = 1e-15
"""Smallest value on a logarithmic axis, as a share of the largest."""
# Okabe and Ito 2008, without their yellow, which is too light for thin lines on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NEGATIVE, POSITIVE, REAL, WRONG = "#D55E00", "#0072B2", "#7A8794", "#C00000"
INK, GREY, FAINT = "#222222", "#666666", "#DDDDDD"
Picture = tuple[str, Path, str]
"""A picture of a report: (heading, PNG file, caption)."""
STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,  # a name may contain a $
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "legend.fontsize": 8.5,
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
}


@contextmanager
def picture(path: str | os.PathLike[str], *, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of this size in inches, written to `path` as PNG (DPI dots per inch) at the end of the context.

    Raises:
        UsageError: matplotlib is not installed, or `path` does not end in .png.
        OnebitError: the file cannot be written.
    """
    if not os.fspath(path).lower().endswith(".png"):
        raise UsageError(f"got {os.fspath(path)!r}, expected a file that ends in .png: pictures are written as PNG")
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("pictures need matplotlib: pip install 'onebit[train]'") from None
    # keeps a user's matplotlibrc and these pictures apart; with usetex, some names would even fail
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # shown as a box instead
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None, "Comment": OWN.decode()})


def curve_color(index: int, count: int) -> Any:
    """The color of one of `count` curves; if there are more than COLORS, they go from dark to light."""
    if count <= len(COLORS):
        return COLORS[index]
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * index / (count - 1))


def add_title(figure: Figure, text: str, *, size: int = 11) -> None:
    """A title above all panels, aligned to the left; it is wrapped to the width of the figure."""
    title = figure.suptitle("\n".join(map(printable, text.splitlines())), fontsize=size, x=0.01, ha="left")
    wrap_to(title, 0.98 * figure.get_figwidth())


def wrap_to(text: Text, width: float) -> None:
    """Break the lines of a text, at words if possible, so that none is wider than `width` inches."""
    lines = text.get_text().splitlines()
    letters = max(map(len, lines), default=0)
    while (excess := text.get_window_extent().width / (width * DPI)) > 1 and letters > 1:
        letters = min(letters - 1, int(letters / excess) + 1)
        text.set_text("\n".join(part for line in lines for part in wrap(line, letters)))


def draw_mean(axes: Axes, x: Any, mean: Any, sd: Any, *, band: float = 0.18, **style: Any) -> None:
    """A line, and ±sd around it as a band of opacity `band`."""
    axes.plot(x, mean, **style)
    if any(sd):
        axes.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=band, linewidth=0)


def band_key(color: str) -> Line2D:
    """The legend entry of the bands of `draw_mean`."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, alpha=0.25, linewidth=6, label="± standard deviation over seeds")


def whole_ticks(axes: Axes, *, most: int = 10) -> None:
    """Label whole numbers only on the x axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1))


def label_epochs(axes: Axes, first: int, last: int) -> None:
    """Label the x axis as epochs, with a narrow margin on both sides."""
    margin = max(0.02 * (last - first), 0.1)
    axes.set_xlim(first - min(margin, 0.5), last + margin)
    axes.set_xlabel("epoch")
    whole_ticks(axes)


def choose_scale(axes: Axes, values: list[float], *, least: float = 0.0) -> float | None:
    """A linear y axis from 0, or a logarithmic one if the values from `least` on span more than a decade.

    If there are smaller values, the logarithmic axis continues as a linear one below them, down to 0.

    Returns:
        The value below which a logarithmic axis is linear; None if there is no such value.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    least = max(least, LOG_RANGE * max(values, default=0.0), sys.float_info.min)
    followed = [value for value in values if value >= least]
    low, high = min(followed, default=1.0), max(followed, default=1.0)
    if high < 10 * low:
        axes.set_ylim(0, 1.08 * high)
        return None
    multiples = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
    if min(values) >= low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=multiples))
        linear_below = None
    else:
        linear_below = max(tick for tick in _ticks((1.0, 2.0, 5.0), low / 10, high) if tick <= low)
        axes.set_yscale("symlog", linthresh=linear_below, linscale=0.5)
        axes.set_ylim(-0.1 * linear_below, high * 1.3)  # keeps a curve at 0 off the axis
        ticks = _ticks(multiples, 1.01 * linear_below, high * 1.3)
        axes.yaxis.set_major_locator(FixedLocator([0.0, linear_below, *ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return linear_below


def scale_words(axes: Axes) -> str:
    """A sentence for the caption about the axis of `choose_scale`, after a space; empty for a linear axis."""
    if axes.get_yscale() == "linear":
        return ""
    linear_below = getattr(axes.yaxis.get_transform(), "linthresh", None)
    below = "" if linear_below is None else f" above {linear_below:g} and linear below, down to 0"
    return f" The axis is logarithmic{below}."


def _ticks(multiples: Sequence[float], low: float, high: float) -> list[float]:
    """multiple · 10ⁿ from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [tick for power in powers for each in multiples if low <= (tick := float(f"{each:g}e{power}")) <= high]


__getattr__ = renamed(__name__, {"COLOURS": "COLORS", "colour": "curve_color"})
