"""Image files to pixels: every kind of image, broken files, threads, and streamed images, indexed like an array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from onebit.common.pictures import FORMATS, ORIENTATION, SUFFIXES, opened, upright_size
from onebit.data import Augmentation, Split, StreamedImages, TrainingSamples, prefetched, splits
from onebit.data.decoding import decode_image
from onebit.data.resizing import crop_box
from onebit.data.splits import hold_out
from onebit.errors import DataError
from support.image_folders import break_image, picture, write

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
ARRAY = PIXELS.transpose(0, 3, 1, 2)


def save(path: Path, image: Image.Image, **options: object) -> str:
    image.save(path, **options)
    return str(path)


def test_suffixes_are_those_of_the_formats() -> None:
    """Pillow's own table, but for .pfm, whose pixels have no known range."""
    table = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert {*SUFFIXES} == table - {".pfm"}


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


def test_a_turned_jpeg_keeps_its_detail(tmp_path: Path) -> None:
    """Its stored height and width are exchanged when a smaller size to decode is chosen."""
    blocks = np.random.default_rng(0).integers(0, 256, (20, 80), np.uint8).repeat(4, 0).repeat(4, 1)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = save(tmp_path / "turned.jpg", Image.fromarray(blocks), quality=95, exif=exif)
    plain = save(tmp_path / "plain.jpg", Image.fromarray(np.rot90(blocks, -1)), quality=95)
    apart = decode_image(turned, (10, 40)).astype(int) - decode_image(plain, (10, 40))
    assert np.abs(apart).mean() < 4


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
    with opened(path) as image:
        assert upright_size(image) == (12, 16)
    np.testing.assert_array_equal(decode_image(path, (16, 12)), np.rot90(np.asarray(rgb), -1))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(50), None])
def test_a_file_that_is_not_an_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ünusual name.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="ünusual"):
        decode_image(str(path), (4, 4))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = break_image(write(tmp_path / f"a{suffix}", picture(5, 60, 60)))
    with pytest.raises(DataError):
        decode_image(str(path), (8, 8))


@pytest.mark.parametrize("workers", [0, 3, None])
def test_images_and_errors_come_in_order(tmp_path: Path, workers: int | None) -> None:
    paths = [str(write(tmp_path / f"{i}.jpg", picture(i, 20 + i % 7, 30 - i % 5))) for i in range(40)]
    for i in (1, 34):
        Path(paths[i]).write_bytes(b"no image")
    crops = np.random.default_rng(0).uniform([0.1, -0.2, 0, 0], [1, 0.2, 1, 1], (40, 4))
    for parts in (None, crops):
        found = list(StreamedImages(paths, (10, 12), workers=workers).decoded(parts))
        assert [i for i, image in enumerate(found) if isinstance(image, DataError)] == [1, 34]
        for i in set(range(40)) - {1, 34}:
            expected = decode_image(paths[i], (10, 12), crop=None if parts is None else parts[i])
            np.testing.assert_array_equal(found[i], expected)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> StreamedImages:
    folder = tmp_path_factory.mktemp("images")
    return StreamedImages([str(write(folder / f"{i}.png", image)) for i, image in enumerate(PIXELS)], (6, 5), workers=2)


INDICES = [slice(20, 2, -3), slice(4, 4), [5, 1, 5, -1], np.arange(30) % 4 == 0, np.array([7]), -1]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_equals_that_of_an_array(index: object, streamed: StreamedImages) -> None:
    got = streamed[index]
    np.testing.assert_array_equal(got, ARRAY[index])  # type: ignore[index]
    assert got.dtype == np.uint8
    if got.ndim == 4:
        subset = streamed.subset(index)
        assert (subset.shape, len(subset), subset.ndim, subset.dtype) == (got.shape, len(got), 4, np.uint8)
        np.testing.assert_array_equal(subset[:], got)


def test_a_split_of_streamed_images_reads_nothing_until_it_must(streamed: StreamedImages) -> None:
    labels = np.arange(30, dtype=np.int64) % 4
    split, whole = Split(streamed, labels), Split(ARRAY, labels)
    assert repr(split) == repr(whole)
    hold_out(Split(StreamedImages(["missing"] * 30, (6, 5)), labels), 7, seed=3)
    for a, b in zip(hold_out(split, 7, seed=3), hold_out(whole, 7, seed=3), strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.images[:], b.images)
    assert split.channel_statistics() == whole.channel_statistics()


def test_statistics_of_streamed_images_come_from_a_sample(
    streamed: StreamedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "STATISTICS_IMAGES", 8)
    split = Split(streamed, np.zeros(30, np.int64))
    mean, deviation = split.channel_statistics()
    assert (mean, deviation) == split.channel_statistics()
    sample = np.sort(np.random.default_rng(0).choice(30, 8, replace=False))
    assert mean == pytest.approx(ARRAY[sample].mean(axis=(0, 2, 3)))
    assert deviation == pytest.approx(ARRAY[sample].std(axis=(0, 2, 3)))


@pytest.mark.parametrize(
    ("augmentation", "channels_last"),
    [
        (Augmentation(), False),
        (Augmentation(2, True), True),
        (Augmentation(0, True, cutout=3), False),
        (Augmentation(min_area=0.3, flip=True), True),
    ],
    ids=str,
)
def test_training_batches_of_streamed_images_are_the_same(
    augmentation: Augmentation, channels_last: bool, streamed: StreamedImages
) -> None:
    order = np.random.default_rng(1).permutation(30)
    chosen = [order[:8], order[8:16], order[16:]]
    made = []
    for images in (ARRAY, streamed):
        split = Split(images, np.arange(30))
        samples = TrainingSamples(split, augmentation, channels_last=channels_last)
        made.append(list(samples.batches([(rows, slice(None)) for rows in chosen], np.random.default_rng(2))))
        again = list(samples.batches([(rows, slice(1, 5)) for rows in chosen], np.random.default_rng(2)))
        for rows, (one, labels), (other, some) in zip(chosen, made[0], again, strict=True):
            np.testing.assert_array_equal(one[1:5], other)
            np.testing.assert_array_equal(labels, rows)
            np.testing.assert_array_equal(some, rows[1:5])
    for (one, _), (other, _) in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.strides == other.strides


def test_prefetched_items_are_in_order_and_limited() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    got = []
    for item in prefetched(items(), ahead=2):
        got.append(item)
        assert len(made) <= item + 3
    assert got == list(range(10))
    assert list(prefetched([])) == []


def test_prefetching_passes_errors_on_and_can_be_closed() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)
    left = prefetched(iter(range(1000)))
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
