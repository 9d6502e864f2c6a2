"""The picture of docs/architecture.md: python tools/architecture_picture.py

A room is a package or module directly in src/onebit. The tool reads the imports of all files, in functions too, and
draws the rooms in layers: each room imports only from rooms below it. Arrows that follow from others are omitted.
`--text` prints rooms and arrows instead. The PNG stores the same text, so that a test can compare picture and code.
"""

from __future__ import annotations

import argparse
import ast
import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from onebit.report.drawing import GREY, INK, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.png"
TEXT_KEY = "rooms"
"""Keyword of the PNG text chunk that holds rooms and arrows."""
NOT_ROOMS = {"__init__", "__main__", "_version"}
TORCH_SHARE = 1 / 3
"""A room with at least this share of modules that import torch is drawn as one that needs torch."""
FOR_TORCH_PROGRAMS = ("runtime/torch_*.py", "runtime/layer_operator.py", "export/plain_torch/*.py")
"""Modules that only torch programs load: not counted. `tests/test_layering.py` keeps their rooms free of torch."""
TORCH, NO_TORCH = ("#D55E00", "#FCEBDF"), ("#0072B2", "#E3F0F8")  # edge, fill
WIDTH, HEIGHT, GAP, LAYER, BEND = 2.2, 0.72, 0.2, 1.16, 0.16  # inches
CHARACTERS = 40  # per line of a caption


@dataclass(frozen=True)
class Room:
    """imports: names of other rooms; summary: first sentence of the docstring."""

    imports: frozenset[str]
    summary: str
    torch: bool


def read_rooms(package: Path) -> dict[str, Room]:
    """Name -> room, from the source files of a package."""
    files: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        files.setdefault(path.relative_to(package).parts[0].removesuffix(".py"), []).append(path)
    names = set(files) - NOT_ROOMS
    rooms = {}
    for name in sorted(names):
        trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files[name]]
        imported = [_imported(tree) for tree in trees]
        others = {full.split(".")[1] for full in set().union(*imported) if full.startswith("onebit.")}
        counted = [
            any(full.split(".")[0] == "torch" for full in _imported(tree, nested=False))
            for path, tree in zip(files[name], trees, strict=True)
            if not any(path.match(pattern) for pattern in FOR_TORCH_PROGRAMS)
        ]
        summary = (ast.get_docstring(trees[0]) or "").partition("\n\n")[0].replace("\n", " ").replace("`", "")
        rooms[name] = Room(frozenset(others & names - {name}), summary, sum(counted) >= TORCH_SHARE * len(counted))
    return rooms


def _imported(tree: ast.Module, *, nested: bool = True) -> set[str]:
    """Full names of everything that a file imports; without `nested`, only at module level."""
    found = set()
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reduced(rooms: dict[str, Room]) -> dict[str, list[str]]:
    """Name -> imported rooms, without those that an imported room imports, too, directly or not."""

    @cache
    def below(name: str) -> frozenset[str]:
        return rooms[name].imports.union(*map(below, rooms[name].imports))

    return {
        name: sorted(low for low in room.imports if not any(low in below(other) for other in room.imports))
        for name, room in rooms.items()
    }


def as_text(rooms: dict[str, Room]) -> str:
    """A line per room, with its color and its arrows."""
    named = {name: f"{name} (torch)" if room.torch else name for name, room in rooms.items()}
    return "".join(
        f"{named[name]} -> {', '.join(lower)}\n" if lower else f"{named[name]}\n"
        for name, lower in reduced(rooms).items()
    )


# -------------------------------------------------------------------------------------------------------------- layout
# Sugiyama's method: rooms in layers, a bend for each layer that an arrow crosses, few crossings, short arrows
Arrow = tuple[str, str]


def layers_of(arrows: dict[str, list[str]]) -> dict[str, int]:
    """Name -> layer, 0 at the bottom."""

    @cache
    def layer(name: str) -> int:
        return 1 + max((layer(low) for low in arrows[name]), default=-1)

    return {name: layer(name) for name in arrows}


def with_bends(arrows: dict[str, list[str]], layer: dict[str, int]) -> list[list[str]]:
    """Each arrow as the rooms and bends that it passes, from the top down. Adds the bends to `layer`."""
    paths = []
    for high, lower in arrows.items():
        for low in lower:
            bends = [f"{high}>{low}@{at}" for at in range(layer[high] - 1, layer[low], -1)]
            layer |= {bend: int(bend.rpartition("@")[2]) for bend in bends}
            paths.append([high, *bends, low])
    return paths


def crossings(rows: list[list[str]], links: list[Arrow], layer: dict[str, int]) -> int:
    at = {name: index for row in rows for index, name in enumerate(row)}
    pairs = [(a, b) for i, a in enumerate(links) for b in links[:i] if layer[a[0]] == layer[b[0]]]
    return sum((at[a[0]] - at[b[0]]) * (at[a[1]] - at[b[1]]) < 0 for a, b in pairs)


def ordered(layer: dict[str, int], links: list[Arrow]) -> list[list[str]]:
    """The names of each layer from left to right, with few crossings: the best of many barycenter sweeps."""
    near: dict[str, list[str]] = {name: [] for name in layer}
    for high, low in links:
        near[high].append(low)
        near[low].append(high)
    best: list[list[str]] = []
    fewest = len(links) ** 2
    draw = random.Random(0)
    for _ in range(60):
        names = sorted(layer)
        draw.shuffle(names)
        rows = [[name for name in names if layer[name] == at] for at in range(max(layer.values()) + 1)]
        for sweep in range(12):
            up = sweep % 2 == 0
            for here in range(1, len(rows)) if up else range(len(rows) - 2, -1, -1):
                fixed = {name: index for index, name in enumerate(rows[here - 1 if up else here + 1])}
                rows[here].sort(key=lambda name: _mean([fixed[n] for n in near[name] if n in fixed], len(fixed) / 2))
            count = crossings(rows, links, layer)
            if count < fewest:
                best, fewest = [list(row) for row in rows], count
    return best


def positions(rows: list[list[str]], links: list[Arrow]) -> dict[str, float]:
    """The center of each room and bend: near its neighbors, in the order of the rows, without overlap."""
    near: dict[str, list[tuple[str, int]]] = {name: [] for row in rows for name in row}
    for high, low in links:
        weight = 40 if "@" in high and "@" in low else 2 if "@" in high or "@" in low else 1  # straight long arrows
        near[high].append((low, weight))
        near[low].append((high, weight))
    x = {name: index * WIDTH - len(row) * WIDTH / 2 for row in rows for index, name in enumerate(row)}
    for sweep in range(3000):
        for row in rows if sweep % 2 else rows[::-1]:
            wishes = [sum(w * x[n] for n, w in near[name]) / sum(w for _, w in near[name]) for name in row]
            steps = [(_half(a) + _half(b) + GAP) for a, b in pairwise(row)]
            offsets = [sum(steps[:index]) for index in range(len(row))]
            fitted = _ascending([wish - offset for wish, offset in zip(wishes, offsets, strict=True)])
            x |= {name: value + offset for name, value, offset in zip(row, fitted, offsets, strict=True)}
    return x


def _half(name: str) -> float:
    return 0.0 if "@" in name else WIDTH / 2


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _ascending(values: list[float]) -> list[float]:
    """The nearest ascending sequence, by least squares: neighbors in the wrong order are merged into their mean."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _mean(groups[-2], 0) > _mean(groups[-1], 0):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_mean(group, 0) for group in groups for _ in group]


# ------------------------------------------------------------------------------------------------------------- picture
def draw(path: Path, rooms: dict[str, Room]) -> None:
    """Write the picture as PNG, with `as_text` in it."""
    arrows = reduced(rooms)
    layer = layers_of(arrows)
    paths = with_bends(arrows, layer)
    links = [link for names in paths for link in pairwise(names)]
    rows = ordered(layer, links)
    x = positions(rows, links)
    left = min(x[name] - _half(name) for name in x)
    right = max(x[name] + _half(name) for name in x)
    width, height = right - left + 0.3, len(rows) * LAYER + 0.25
    with picture(path, width=width, height=height) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(left - 0.15, right + 0.15), ylim=(-LAYER / 2 - 0.2, len(rows) * LAYER - LAYER / 2 + 0.05))
        axes.set_axis_off()
        for names in paths:
            _draw_arrow(axes, [_point(name, x, layer, paths, names) for name in names])
        for name, room in rooms.items():
            _draw_room(axes, name, room, x[name], layer[name] * LAYER)
        for index, (text, colors) in enumerate((("imports torch", TORCH), ("does not", NO_TORCH))):
            at = left + 0.05 + 1.3 * index
            axes.add_patch(_box(at, -LAYER / 2 - 0.1, 0.22, 0.14, colors))
            axes.text(at + 0.3, -LAYER / 2 - 0.03, text, va="center", fontsize=8, color=GREY)
    info = PngInfo()
    info.add_text(TEXT_KEY, as_text(rooms))
    Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True, pnginfo=info)


def _point(
    name: str, x: dict[str, float], layer: dict[str, int], paths: list[list[str]], names: list[str]
) -> tuple[float, float]:
    """Where an arrow passes. At a room, its arrows share an edge, in the order of where they go."""
    if "@" in name:
        return x[name], layer[name] * LAYER
    leaves = name == names[0]
    same = [other[1 if leaves else -2] for other in paths if other[0 if leaves else -1] == name]
    places = sorted(same, key=lambda other: x[other])
    index = places.index(names[1 if leaves else -2])
    spread = min(0.45, 0.8 * WIDTH / max(len(places), 1))
    offset = (index - (len(places) - 1) / 2) * spread
    return x[name] + offset, layer[name] * LAYER + (-HEIGHT / 2 if leaves else HEIGHT / 2)


def _draw_arrow(axes: Axes, points: list[tuple[float, float]]) -> None:
    """A smooth line from the first point down to the last, vertical at each."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Line

    vertices, codes = [points[0]], [Line.MOVETO]
    for index, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        # straight through the height of a layer at a bend, curved in the gap between two layers
        start = y0 - (HEIGHT / 2 if index else 0)
        end = y1 + (HEIGHT / 2 if index < len(points) - 2 else 0)
        bend = max(BEND, (start - end) / 2)
        vertices += [(x0, start), (x0, start - bend), (x1, end + bend), (x1, end)]
        codes += [Line.LINETO, Line.CURVE4, Line.CURVE4, Line.CURVE4]
    arrow = FancyArrowPatch(
        path=Line(vertices, codes),
        arrowstyle="-|>,head_length=4.5,head_width=2.2",
        color="#8A949E",
        linewidth=1.1,
        zorder=1,
    )
    axes.add_patch(arrow)


def _draw_room(axes: Axes, name: str, room: Room, x: float, y: float) -> None:
    axes.add_patch(_box(x - WIDTH / 2, y - HEIGHT / 2, WIDTH, HEIGHT, TORCH if room.torch else NO_TORCH))
    lines = _caption(name, room.summary)
    top = y + 0.065 + 0.052 * len(lines)  # name and lines together are centered in the box
    axes.text(x, top, name, ha="center", va="center", fontsize=10, weight="bold", color=INK)
    axes.text(x, top - 0.1, "\n".join(lines), ha="center", va="top", fontsize=6.8, color="#444444", linespacing=1.15)


def _caption(name: str, summary: str) -> list[str]:
    """At most three lines of about equal length: the first sentence, or its part before a colon."""
    sentence = summary.split(". ")[0].rstrip(".")
    head, _, rest = sentence.partition(": ")
    if rest and head.lower() in (name, f"{name}s"):
        sentence = rest[0].upper() + rest[1:]
    if len(textwrap.wrap(sentence, CHARACTERS)) > 3:
        sentence = sentence.partition(": ")[0]
    count = len(textwrap.wrap(sentence, CHARACTERS))
    narrow = next(w for w in range(1, CHARACTERS + 1) if len(textwrap.wrap(sentence, w)) <= count or w == CHARACTERS)
    return textwrap.wrap(sentence, narrow)[:3]


def _box(x: float, y: float, width: float, height: float, colors: tuple[str, str]) -> FancyBboxPatch:
    from matplotlib.patches import FancyBboxPatch

    edge, fill = colors
    style = f"round,pad=0,rounding_size={min(0.08, height / 3)}"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, edgecolor=edge, facecolor=fill, linewidth=1.1, zorder=2
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "src" / "onebit", help="folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=PICTURE, help="file (%(default)s)")
    parser.add_argument("--text", action="store_true", help="print rooms and arrows, draw nothing")
    args = parser.parse_args(argv)
    rooms = read_rooms(args.package)
    if args.text:
        print(as_text(rooms), end="")
    else:
        draw(args.out, rooms)


if __name__ == "__main__":
    main()
