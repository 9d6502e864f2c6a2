"""Image files to pixels: every kind of image, broken files, and threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_folder import break_image, picture, write

from onebit.common.pictures import FORMATS, ORIENTATION, SUFFIXES
from onebit.data.decoding import decode_each, decode_image, image_size
from onebit.data.resizing import crop_box
from onebit.errors import DataError


def save(path: Path, image: Image.Image, **options: object) -> str:
    image.save(path, **options)
    return str(path)


def test_every_suffix_of_the_formats_that_are_read_is_one_of_an_image() -> None:
    """Pillow's own table, but for .pfm, whose pixels have no known range."""
    table = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert {*SUFFIXES} == table - {".pfm"}


def test_an_image_of_the_right_size_is_unchanged(tmp_path: Path) -> None:
    pixels = picture(0)
    np.testing.assert_array_equal(decode_image(str(write(tmp_path / "a.png", pixels)), (12, 16)), pixels)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (31, 17), (8, 8), (300, 200)])
def test_the_shorter_side_is_resized_and_the_center_cropped(tmp_path: Path, height: int, width: int) -> None:
    pixels, side = picture(1, height, width), min(height, width)
    got = decode_image(str(write(tmp_path / "a.png", pixels)), (10, 10))
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    np.testing.assert_array_equal(got, Image.fromarray(pixels).resize((10, 10), Image.Resampling.BILINEAR, box))


def test_a_crop_is_resized_to_the_full_size(tmp_path: Path) -> None:
    pixels = picture(2, 40, 60)
    crop = np.array([0.3, 0.1, 0.25, 0.75])
    got = decode_image(str(write(tmp_path / "a.png", pixels)), (9, 9), crop=crop)
    expected = Image.fromarray(pixels).resize((9, 9), Image.Resampling.BILINEAR, crop_box(60, 40, crop))
    np.testing.assert_array_equal(got, np.asarray(expected))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_crop_of_a_large_jpeg_keeps_its_detail(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stripes = np.where(np.arange(640) // 4 % 2, 230, 20).astype(np.uint8)
    photo = Image.fromarray(np.broadcast_to(stripes, (480, 640)))
    path = save(tmp_path / "photo.jpg", photo, quality=95, exif=exif)
    crop = np.array([1 / 64, 0, 0.4, 0.4])  # 60×80 pixels, or 80×60
    seen = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    whole = seen.resize((40, 40), Image.Resampling.BILINEAR, crop_box(*seen.size, crop))
    got = decode_image(path, (40, 40), crop=crop)
    np.testing.assert_allclose(got.astype(float), np.asarray(whole, float), atol=8)


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(picture(3))
    gray = np.asarray(rgb.convert("L"))

    def decoded(name: str, image: Image.Image, **options: object) -> np.ndarray:
        return decode_image(save(tmp_path / name, image, **options), (12, 16))

    np.testing.assert_array_equal(decoded("l.png", rgb.convert("L")), np.stack([gray] * 3, axis=2))
    np.testing.assert_array_equal(
        decoded("1.png", rgb.convert("1")), np.stack([np.asarray(rgb.convert("1")) * 255] * 3, 2)
    )
    np.testing.assert_array_equal(decoded("p.png", rgb.quantize(16)), np.asarray(rgb.quantize(16).convert("RGB")))
    np.testing.assert_array_equal(
        decoded("cmyk.tif", rgb.convert("CMYK")), np.asarray(rgb.convert("CMYK").convert("RGB"))
    )
    sixteen = Image.fromarray(gray.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decoded("16.png", sixteen), np.stack([gray] * 3, axis=2))
    assert (decoded("light.png", Image.fromarray(np.full((12, 16), 65_280, np.uint16))) == 254).all()
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), [4, 8], 0).repeat(16, 1)))
    on_black = np.asarray(rgb).copy()
    on_black[:4] = 0
    np.testing.assert_array_equal(decoded("rgba.png", alpha), on_black)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_exif_orientation_is_applied(tmp_path: Path, suffix: str) -> None:
    """Versions of Pillow differ in the size that they give a turned TIFF."""
    rgb, exif = Image.fromarray(picture(4)), Image.Exif()
    exif[ORIENTATION] = 6  # turned by a quarter
    path = save(tmp_path / f"a{suffix}", rgb, exif=exif)
    assert image_size(path) == (16, 12)
    np.testing.assert_array_equal(decode_image(path, (16, 12)), np.rot90(np.asarray(rgb), -1))


def test_a_turned_jpeg_keeps_its_detail(tmp_path: Path) -> None:
    """It is decoded at no less than twice the size that is needed, turned or not."""
    blocks = np.random.default_rng(0).integers(0, 256, (20, 80), np.uint8)
    stored = Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = save(tmp_path / "plain.jpg", stored.rotate(-90, expand=True), quality=95)
    turned = save(tmp_path / "turned.jpg", stored, exif=exif, quality=95)
    size = (10, 40)
    expected = decode_image(plain, size).astype(int)
    assert np.abs(decode_image(turned, size).astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(50), None],
    ids=["empty", "a web page", "a head only", "missing"],
)
def test_a_file_that_is_not_an_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ünusual name.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"ünusual name\.png"):
        decode_image(str(path), (4, 4))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = break_image(write(tmp_path / f"a{suffix}", picture(5, 60, 60)))
    with pytest.raises(DataError, match="truncated"):
        decode_image(str(path), (8, 8))


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_images_and_errors_come_in_order(tmp_path: Path, workers: int | None) -> None:
    paths = [str(write(tmp_path / f"{i}.jpg", picture(i, 20 + i % 7, 30 - i % 5))) for i in range(40)]
    for i in (1, 34):
        Path(paths[i]).write_bytes(b"no image")
    crops = np.random.default_rng(0).uniform([0.1, -0.2, 0, 0], [1, 0.2, 1, 1], (40, 4))
    for parts in (None, crops):
        found = list(decode_each(paths, (10, 12), crops=parts, workers=workers))
        assert [i for i, image in enumerate(found) if isinstance(image, DataError)] == [1, 34]
        for i in set(range(40)) - {1, 34}:
            expected = decode_image(paths[i], (10, 12), crop=None if parts is None else parts[i])
            np.testing.assert_array_equal(found[i], expected)
