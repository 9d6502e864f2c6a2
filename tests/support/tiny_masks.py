"""Small folders of generated images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.tiny_folder import write


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
