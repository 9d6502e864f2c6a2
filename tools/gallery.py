"""Pictures of docs/gallery.md that no other tool draws: python -m tools.gallery [--data DIR]"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import onebit

drawing = onebit.report.drawing
SOURCE = Path(onebit.__file__).parent
ROOMS = [
    *("errors", "common", "nets", "packed", "native", "runtime", "integer", "export", "data", "quantizers", "layers"),
    *("evaluation", "optim", "models", "recipe", "fold", "train", "runs", "verification", "report", "trainer", "cli"),
]
"""From the bottom to the top, as in tests/test_layering.py."""


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


def imports(room: str) -> Iterator[str]:
    """The rooms that a room imports."""
    for path in files(room):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "onebit":
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onebit."):
                yield str(node.module).split(".")[1]


def files(room: str) -> list[Path]:
    return sorted((SOURCE / room).rglob("*.py")) or [SOURCE / f"{room}.py"]


def house(out: Path) -> None:
    """Each room with its lines, and an arc for each room that it imports."""
    lines = [sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files(room)) for room in ROOMS]
    with drawing.picture(out, width=8, height=6.5) as figure:
        axes, arcs = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
        axes.barh(range(len(ROOMS)), lines, color=drawing.COLORS[0])
        axes.set_yticks(range(len(ROOMS)), ROOMS)
        axes.set_xlabel("lines of Python")
        for room in ROOMS:
            for below in {name for name in imports(room) if name in ROOMS} - {room}:
                top, bottom = ROOMS.index(room), ROOMS.index(below)
                turn = np.linspace(0, np.pi, 40)
                arcs.plot(
                    (top - bottom) / 2 * np.sin(turn),
                    (top + bottom) / 2 + (top - bottom) / 2 * np.cos(turn),
                    color=drawing.COLORS[1],
                    alpha=0.35,
                    linewidth=0.8,
                )
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
