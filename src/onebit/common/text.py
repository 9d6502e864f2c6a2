"""Text for people: numbers of bytes, shares, and the one printer of tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any, NamedTuple

from onebit.errors import escaped, short

GAP = 2
"""Spaces between two columns."""
MIN_NAME = 16
"""Characters of a word that is never broken."""


class NetSize(NamedTuple):
    """How much of a net is binary: weights with one bit, all weights, and bytes when packed."""

    binary: int
    weights: int
    bytes: int

    @property
    def share(self) -> str:
        """The share of binary weights with one decimal; 100.0 only if all are."""
        share = 100 * self.binary / max(1, self.weights)
        return f"{min(share, 99.9) if self.binary < self.weights else share:.1f} %"

    def __str__(self) -> str:
        if not self.binary:
            return "no binary weights"
        return f"{self.share} of the weights binary, {size(self.bytes)} of packed parameters"


def size(count: float) -> str:
    """A number of bytes, readable."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), least: int = 0, width: int | None = None) -> str:
    """Columns of text, two spaces apart, that fit a terminal: cells break at spaces, then within long words.

    Columns that still do not fit continue in a second table below, after the first column again.

    Args:
        right: columns that are aligned right; below the first row, the heading, their cells are not broken.
        least: least width of a column, for a table that is printed row by row, which has no second part.
        width: of the terminal; by default COLUMNS, or that of the terminal, or 80.
    """
    rows = [[escaped(cell) for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True))
    available = (get_terminal_size().columns if width is None else width) - GAP * (len(columns) - 1)
    words, parts = (
        [max(least, _narrowest(column, i in right, word)) for i, column in enumerate(columns)]
        for word in (None, least or MIN_NAME)
    )
    if sum(parts) > available and len(columns) > 2 and not least:
        fit = max(2, sum(sum(parts[:n]) <= available + GAP * (len(columns) - n) for n in range(1, len(columns))))
        kept = [0, *range(fit, len(columns))]
        others = [kept.index(i) for i in right if i in kept]
        rest = table([[row[i] for i in kept] for row in rows], right=others, width=width)
        return f"{table([row[:fit] for row in rows], right=right, width=width)}\n\n{rest}"
    widths = [max(least, *map(len, column)) for column in columns]
    for narrowest in (words, parts):
        while sum(widths) > available and any(map(int.__gt__, widths, narrowest)):
            widest = max(range(len(widths)), key=lambda i: (widths[i] > narrowest[i], widths[i]))
            widths[widest] -= 1
    lines = []
    for n, row in enumerate(rows):
        cells = [wrap(cell, max(1, width), break_on_hyphens=False) for cell, width in zip(row, widths, strict=True)]
        height = max(map(len, cells))
        # headings are aligned at their last lines
        cells = [[""] * (height - len(cell)) + cell if right and n == 0 else cell for cell in cells]
        for line in zip_longest(*cells, fillvalue=""):
            texts = [line[i].rjust(w) if i in right else line[i].ljust(w) for i, w in enumerate(widths)]
            lines.append((" " * GAP).join(texts).rstrip())
    return "\n".join(lines)


def _narrowest(column: Sequence[str], right: bool, longest: int | None) -> int:
    """The least width of a column that breaks at words, and within those of more than `longest` characters."""
    word = max(len(word) for cell in column for word in cell.split() or [""])
    return max([min(word, longest or word), 1, *(map(len, column[1:]) if right else ())])


def change_in_words(name: str, was: Any, now: Any) -> str:
    """A changed setting; a whole float, such as a number of epochs, is written as an integer."""
    was, now = (short(value).removesuffix(".0") for value in (was, now))
    return f"the run has {name} = {was}, this command has {name} = {now}"
