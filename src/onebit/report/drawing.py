"""What the pictures share: a figure without global state, colours that the colour-blind can tell apart, axis styles."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onebit.common.files import atomic_path
from onebit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
LOG_RANGE = 1e-15
"""The least value that a logarithmic axis follows, as a share of the greatest."""
# Okabe and Ito 2008, without their yellow, which is too light for thin lines on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NEGATIVE, POSITIVE, REAL, WRONG = "#D55E00", "#0072B2", "#7A8794", "#C00000"
INK, GREY, FAINT = "#222222", "#666666", "#DDDDDD"
STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,  # a name may hold a $
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.3,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
}


@contextmanager
def picture(path: str | os.PathLike[str], *, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of so many inches, written to `path` as PNG (DPI dots per inch) when the block ends.

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
    # a user's own matplotlibrc must not change the pictures (usetex would even fail on names), nor ours theirs
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is shown instead
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def colour(index: int, count: int) -> Any:
    """The colour of one of `count` curves; more than COLOURS go from dark to light."""
    if count <= len(COLOURS):
        return COLOURS[index]
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * index / (count - 1))


def label_epochs(axes: Axes, first: int, last: int) -> None:
    """Label the x axis as epochs, whole numbers only, with a narrow margin on both sides."""
    from matplotlib.ticker import MaxNLocator

    margin = max(0.02 * (last - first), 0.1)
    axes.set_xlim(first - min(margin, 0.5), last + margin)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))


def choose_scale(axes: Axes, values: list[float], *, least: float = 0.0) -> float | None:
    """A linear y axis from 0, or a logarithmic one where positive values from `least` on span more than a decade.

    Values below those are not lost: under them a logarithmic axis goes on as a linear one, down to 0.

    Returns:
        The value below which a logarithmic axis is linear; None where no axis or the whole axis is.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    least = max(least, LOG_RANGE * max(values, default=0.0), sys.float_info.min)
    followed = [value for value in values if value >= least]
    if not followed or max(followed) < 10 * min(followed):
        axes.set_ylim(0, 1.08 * max(followed, default=1.0))
        return None
    low, high = min(followed), max(followed)
    steps = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
    if min(values) >= low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        linear_below = None
    else:
        linear_below = max(tick for tick in _ticks((1.0, 2.0, 5.0), low / 10, high) if tick <= low)
        axes.set_yscale("symlog", linthresh=linear_below, linscale=0.5)
        axes.set_ylim(-0.1 * linear_below, high * 1.3)  # a curve at 0 keeps clear of the axis
        axes.yaxis.set_major_locator(FixedLocator([0.0, linear_below, *_ticks(steps, 1.01 * linear_below, high * 1.3)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return linear_below


def scale_words(axes: Axes) -> str:
    """What a caption says of an axis that `choose_scale` chose: a sentence with a space before it, or nothing."""
    if axes.get_yscale() == "linear":
        return ""
    linear_below = getattr(axes.yaxis.get_transform(), "linthresh", None)
    below = "" if linear_below is None else f" above {linear_below:g} and linear below, down to 0"
    return f" The axis is logarithmic{below}."


def _ticks(steps: Sequence[float], low: float, high: float) -> list[float]:
    """step · 10ⁿ from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [tick for power in powers for step in steps if low <= (tick := float(f"{step:g}e{power}")) <= high]
