"""Image files to pixels: every kind of image, broken files, and worker processes."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_folder import break_image, picture, write

from onebit.common.pictures import FORMATS, ORIENTATION, SUFFIXES
from onebit.data.decoding import Decoders, decode_image, default_workers, image_size
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


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    rgb, exif = Image.fromarray(picture(4)), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = save(tmp_path / "a.png", rgb, exif=exif)
    assert image_size(path) == (16, 12)
    np.testing.assert_array_equal(decode_image(path, (16, 12)), np.rot90(np.asarray(rgb), -1))
    np.testing.assert_array_equal(decode_image(path, (16, 12)), np.asarray(ImageOps.exif_transpose(Image.open(path))))


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


def test_a_turned_tiff_has_the_size_that_viewers_show(tmp_path: Path) -> None:
    """Versions of Pillow differ in the size that they give it."""
    rgb, exif = Image.fromarray(picture(4)), Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.tif", rgb, exif=exif)
    assert image_size(path) == (16, 12)
    np.testing.assert_array_equal(decode_image(path, (16, 12)), np.rot90(np.asarray(rgb), -1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not decode"),
        (b"<html>not found</html>", "does not decode"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "does not decode"),
        (None, "does not decode as an image: .*No such file"),
    ],
    ids=["empty", "a web page", "a head only", "missing"],
)
def test_a_file_that_is_not_an_image_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "ünusual name.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        Decoders((4, 4), workers=0).decode([str(path)])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = break_image(write(tmp_path / f"a{suffix}", picture(5, 60, 60)))
    with pytest.raises(DataError, match=r"does not decode as an image: (?i:.*truncated)"):
        decode_image(str(path), (8, 8))


def test_workers_decode_in_order_with_the_same_result(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / f"{i}.jpg", picture(i, 20 + i % 7, 30 - i % 5))) for i in range(40)]
    crops = np.random.default_rng(0).uniform([0.1, -0.2, 0, 0], [1, 0.2, 1, 1], (40, 4))
    expected, cropped = np.stack([decode_image(path, (10, 12)) for path in paths]), Decoders((10, 12), workers=0)
    with closing(Decoders((10, 12), workers=2)) as decoders:
        np.testing.assert_array_equal(decoders.decode(paths), expected)
        np.testing.assert_array_equal(decoders.decode(paths, crops=crops), cropped.decode(paths, crops=crops))
        sent = copy.deepcopy(decoders)  # as to another process
        with closing(sent):
            np.testing.assert_array_equal(sent.decode(paths[:3]), expected[:3])
        decoders.close()
        np.testing.assert_array_equal(decoders.decode(paths[5:7]), expected[5:7])  # started again
    assert default_workers() >= 1


def test_errors_come_in_order_and_do_not_stop_the_others(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / f"ü {i}.png", picture(i))) for i in range(6)]
    for i in (1, 4):
        Path(paths[i]).write_bytes(b"no image")
    pixels = np.zeros((6, 12, 16, 3), np.uint8)
    with closing(Decoders((12, 16), workers=2)) as decoders:
        errors = list(decoders.decode_into(pixels, paths))
        with pytest.raises(DataError, match=r"1\.png"):
            decoders.decode(paths)
    assert [i for i, error in enumerate(errors) if error is not None] == [1, 4]
    assert (pixels[[0, 2, 3, 5]] == [picture(i) for i in (0, 2, 3, 5)]).all()


def test_a_worker_that_dies_is_one_clear_line(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.png", picture(0)))
    with closing(Decoders((12, 16), workers=1)) as decoders:
        decoders.decode([path])
        process = decoders._idle.get()
        process.kill()
        decoders._idle.put(process)
        with pytest.raises(DataError, match=r"a\.png: the worker process that decoded it ended with status -9"):
            decoders.decode([path])


SCRIPT = """
import sys
from onebit.data.decoding import Decoders
decoders = Decoders((12, 16), workers=2)
decoders.decode([sys.argv[1]] * 4)
print(*[p.pid for p in list(decoders._idle.get() for _ in range(2))], flush=True)
{then}
"""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone, or as it was read
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", ["return", "ctrl-c", "kill"])
def test_workers_end_with_the_parent_process(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "a.png", picture(0))
    then = "" if end == "return" else "import time; time.sleep(60)"
    script = tmp_path / "script.py"  # no `if __name__ == "__main__"`
    script.write_text(SCRIPT.format(then=then))
    process = subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    if end != "return":
        process.send_signal(signal.SIGINT if end == "ctrl-c" else signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == {"return": 0, "ctrl-c": -signal.SIGINT, "kill": -signal.SIGKILL}[end]
    assert errors.decode().strip().splitlines()[-1:] == (["KeyboardInterrupt"] if end == "ctrl-c" else [])
    until = time.monotonic() + 5
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_running, workers))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_its_own_workers(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.png", picture(0)))
    code = f"""
import os
from onebit.data.decoding import Decoders
decoders = Decoders((12, 16), workers=1)
first = decoders.decode([{path!r}])
child = os.fork()
assert (decoders.decode([{path!r}]) == first).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert (decoders.decode([{path!r}]) == first).all()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=20)
