"""Parts shared by all pictures: a figure without global state, colorblind-safe colors, titles and axes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from onebit.common.files import OWN, AnyPath, atomic_path
from onebit.errors import UsageError
from onebit.report.wording import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
# Okabe and Ito 2008, without their yellow, which is too light for thin lines on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NEGATIVE, POSITIVE, REAL, WRONG = "#D55E00", "#0072B2", "#7A8794", "#C00000"
INK, GREY, FAINT = "#222222", "#666666", "#DDDDDD"
Picture = tuple[str, Path, str]
"""A picture of a report: (heading, PNG file, caption)."""
STYLE: Any = {
    "text.parse_math": False,  # a name may contain a $
    "font.size": 9.0,
    "axes.titlelocation": "left",
    "grid.color": FAINT,
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
}


@contextmanager
def picture(path: AnyPath, *, width: float, height: float, title: str | None = None) -> Iterator[Figure]:
    """A figure of this size in inches, written to `path` as PNG (DPI dots per inch) at the end of the context.

    Args:
        title: above all panels, aligned to the left, in lines that fit the width.

    Raises:
        UsageError: `path` does not end in .png.
        OnebitError: the file cannot be written.
    """
    if not os.fspath(path).lower().endswith(".png"):
        raise UsageError(f"expected a .png file, got {os.fspath(path)!r}")
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # ignores the user's matplotlibrc; with usetex, some names would fail
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # shown as a box instead
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        if title is not None:
            lines = [part for line in title.splitlines() for part in wrap(printable(line), int(11 * width))]
            figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
        yield figure
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None, "Comment": OWN.decode()})


def curve_color(index: int, count: int) -> Any:
    """The color of one of `count` curves; if there are more than COLORS, they go from dark to light."""
    if count <= len(COLORS):
        return COLORS[index]
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * index / (count - 1))


def log_ticks(axis: Any, *, subs: tuple[float, ...] = (1, 2, 5)) -> None:
    """Label a logarithmic axis at `subs` times the powers of 10, as ordinary numbers."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")
