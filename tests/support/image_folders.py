"""Small folders of generated images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    """(H, W, 3) of smooth colors: a JPEG of it is nearly the same."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_class(
    folder: Path, count: int, *, seed: int = 0, suffix: str = ".png", height: int = 12, width: int = 16
) -> None:
    """`count` images in a class folder, named by their number."""
    for i in range(count):
        write(folder / f"{i:03}{suffix}", picture(seed + i, height, width))


def imagenet_folder(root: Path, *, train: int = 5, val: int = 3, suffix: str = ".JPEG") -> Path:
    """`train/CLASS/*` and `val/CLASS/*` of three classes, images of several sizes."""
    for label, name in enumerate(("n01", "n02", "n03")):
        for part, count in (("train", train), ("val", val)):
            for i in range(count):
                seed = 1000 * label + i + 500 * (part == "val")
                write(root / part / name / f"{name}_{i}{suffix}", picture(seed, 40 + i, 52 - 3 * i))
    return root


def break_image(path: Path) -> Path:
    """Truncate an image file to half its size."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def blobs(seed: int, side: int = 32) -> np.ndarray:
    """(side, side) bool, True in a few discs."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    inside = np.zeros((side, side), bool)
    for _ in range(4):
        row, column, radius = rng.uniform((0, 0, side / 10), (side, side, side / 4))
        inside |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    return inside


def masked_folder(root: Path, count: int = 10, *, side: int = 32) -> Path:
    """`image/N.png` of gray discs on a darker ground, with noise, and `label/N.png`, 255 in the discs and 0 outside."""
    for i in range(count):
        inside, noise = blobs(i, side), np.random.default_rng(1000 + i).integers(-80, 81, (side, side))
        write(root / "image" / f"{i}.png", np.clip(70 + 110 * inside + noise, 0, 255).astype(np.uint8))
        write(root / "label" / f"{i}.png", inside.astype(np.uint8) * 255)
    return root
