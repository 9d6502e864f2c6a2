"""The pictures of the gallery can be drawn again: every room, and the filters that are in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from test_layering import ORDER
from tools import gallery
from tools.sizes import arrows

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def test_filters_and_house(tmp_path: Path) -> None:
    gallery.main(["--out", str(tmp_path)])
    new, kept = (np.asarray(Image.open(folder / "filters.png").convert("L")) for folder in (tmp_path, IMAGES))
    assert np.array_equal(new, kept)
    assert (tmp_path / "house.png").exists()


def test_every_room_stands_above_what_it_imports() -> None:
    pairs = {(above, under) for above, under in arrows() if not above.startswith("__")}
    rooms = list(gallery.floors(pairs))
    assert set(rooms) == {*ORDER} - {"__main__"}
    assert all(rooms.index(above) > rooms.index(under) for above, under in pairs)
