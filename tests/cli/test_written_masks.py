"""Where `onebit predict` writes the masks of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_support import Outcome
from PIL import Image

Onebit = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("images", "masks", "named"),
    [
        (["image/3.png"], "image", "image/3.png"),  # the image
        (["image/4.jpg", "image/3.png"], "other/../image", "image/3.png"),
        (["image/3.png"], "label", "label/3.png"),  # the true mask, which would then be found to be right
        (["image/3.png", "image/3-beside.png"], "masks", "masks/3-beside.png"),  # the picture of the other image
    ],
)
def test_no_image_and_no_true_mask_is_replaced(
    onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[str], masks: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other").mkdir()
    for place in ("image/3.png", "image/4.jpg", "image/3-beside.png", "label/3.png"):
        Path(place).parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(place)
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    refused = onebit("predict", "membrane-unet", *images, "--masks", masks)
    assert refused.status == 2
    assert refused.err.splitlines()[-1].endswith(
        f"{named} would be replaced: name another folder with --masks, or rename the image"
    )
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


@pytest.mark.parametrize(("mask", "said"), [("3.txt", ""), ("3.png", "3.png is not compared with its true mask: ")])
def test_a_true_mask_that_cannot_be_read_stops_nothing(onebit: Onebit, tmp_path: Path, mask: str, said: str) -> None:
    for place in ("image", "label"):
        (tmp_path / place).mkdir()
    for name in ("3.png", "4.png"):
        Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "image" / name)
    (tmp_path / "label" / mask).write_bytes(b"no mask")
    done = onebit("predict", "membrane-unet", tmp_path / "image", "--masks", tmp_path / "masks")
    assert (done.status, len(done.out.splitlines())) == (0, 2)
    assert ("not compared" in done.err, said in done.err) == (bool(said), True)


def test_names_and_arrays(onebit: Onebit, tmp_path: Path) -> None:
    name = tmp_path / "a\x1b[2J\n.png"
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(name)
    done = onebit("predict", "membrane-unet", name, "--masks", tmp_path / "masks")
    assert done.status == 0
    assert "a\\x1b[2J\\n.png: " in done.out
    assert "\x1b" not in done.out
    refused = onebit("predict", "membrane-unet", "x.npy", "--masks", tmp_path / "masks")
    assert refused.line.endswith("x.npy: masks are made of image files; --values gives the outputs of arrays")
