"""Pictures of docs/gallery.md that no other tool draws: python -m tools.gallery [--data DIR]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

import onebit
from tools.sizes import PACKAGE, arrows

drawing = onebit.report.drawing


def filters(out: Path, net: str = "mnist-mlp", columns: int = 16, rows: int = 4) -> None:
    """The signs of the first layer: a tile for each of the first hidden units."""
    dense = next(node for node in onebit.load(net).nodes if isinstance(node, onebit.packed.Dense))
    signs = onebit.packed.bits.unpack_signs(dense.signs, 784).reshape(-1, 28, 28)[: rows * columns]
    framed = np.pad(np.where(signs > 0, 235, 45), ((0, 0), (1, 1), (1, 1)), constant_values=140)
    sheet = framed.reshape(rows, columns, 30, 30).transpose(0, 2, 1, 3).reshape(rows * 30, columns * 30)
    Image.fromarray(sheet.astype(np.uint8)).resize((columns * 90, rows * 90), 0).quantize(4).save(out)


def masks(out: Path, folder: Path, slices: tuple[int, ...] = (3, 11)) -> None:
    """What membrane-unet answers for whole slices; the slices themselves are not ours to show."""
    images = np.stack([np.asarray(Image.open(folder / f"{number}.png").convert("L"))[None] for number in slices])
    labels = onebit.run(onebit.load("membrane-unet"), images).argmax(axis=1)
    sheet = np.concatenate(list(np.pad(labels, ((0, 0), (4, 4), (4, 4)))), axis=1)
    Image.fromarray((255 * sheet).astype(np.uint8)).convert("1").save(out, optimize=True)


def floors(pairs: set[tuple[str, str]]) -> dict[str, int]:
    """Room -> how many floors are below it, where each room stands above those that it imports."""
    below = {room: {under for above, under in pairs if above == room} for pair in pairs for room in pair}

    @cache
    def floor(room: str) -> int:
        return max((1 + floor(under) for under in below[room]), default=0)

    return {room: floor(room) for room in sorted(below, key=lambda room: (floor(room), room))}


def house(out: Path) -> None:
    """Each room with its lines, and an arc for each room that it imports."""
    pairs = {(above, under) for above, under in arrows() if not above.startswith("__")}
    rooms = list(floors(pairs))
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
    Image.open(out).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder with membrane/image; without it, masks.png is not drawn")
    options = parser.parse_args(argv)
    filters(options.out / "filters.png")
    house(options.out / "house.png")
    if options.data is not None:
        masks(options.out / "masks.png", options.data / "membrane" / "image")


if __name__ == "__main__":
    main()
