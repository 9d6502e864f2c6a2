"""`onebit predict` with images of any size and kind: what a net sees, and what is said about it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import Outcome
from packed_nets import Builder
from PIL import Image

from onebit.cli import predict_verb
from onebit.common.pictures import opened, picture
from onebit.data import load_dataset
from onebit.packed import Dense, Flatten, save
from onebit.runtime import load, run, softmax

Onebit = Callable[..., Outcome]
SIDE = 16


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    colors = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)


def save_net(path: Path, channels: int) -> Path:
    b = Builder((channels, SIDE, SIDE), seed=1)
    b.add(Flatten)
    b.add(Dense, **b.signs(12, channels * SIDE * SIDE, scale=True))
    save(b.net(), path)
    return path


@pytest.fixture
def color(tmp_path: Path) -> Path:
    return save_net(tmp_path / "color.1bit", 3)


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    return save_net(tmp_path / "gray.1bit", 1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What the net is given."""
    given: list[np.ndarray] = []
    monkeypatch.setattr(predict_verb, "run", lambda net, x: (given.append(x), run(net, x))[1])
    return given


def save_all_kinds(folder: Path) -> dict[str, Path]:
    """The same picture, 30×40, as every kind of file."""
    folder.mkdir(parents=True)
    rgb, paths = smooth(30, 40), {}

    def store(kind: str, suffix: str, image: Image.Image, **options: Any) -> None:
        paths[kind] = folder / f"{kind}{suffix}"
        image.save(paths[kind], **options)

    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (30, 1))))
    gray = np.asarray(rgb.convert("L"))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    store("jpeg", ".jpg", smooth(600, 900))  # decoded at a quarter of its size
    store("gray", ".png", rgb.convert("L"))
    store("gray-alpha", ".png", alpha.convert("LA"))
    store("bits", ".bmp", rgb.convert("1"))
    store("palette", ".png", rgb.quantize(16))
    store("rgba", ".webp", alpha, lossless=True)
    store("cmyk", ".tif", rgb.convert("CMYK"))
    store("deep", ".png", deep)
    store("deep-clear", ".png", deep, transparency=int(gray[0, 0]) * 257)
    store("turned", ".jpg", rgb, exif=turned)
    store("frames", ".gif", rgb, save_all=True, append_images=[smooth(30, 40, 1), smooth(30, 40, 2)])
    store("webp-frames", ".webp", rgb, save_all=True, append_images=[smooth(30, 40, 1)])
    store("small", ".ppm", rgb.resize((9, 8)))
    store("fits", ".png", rgb.resize((SIDE, SIDE)))
    return paths


def test_a_net_sees_the_pixels_that_training_on_a_folder_gives(
    onebit: Onebit, color: Path, tmp_path: Path, seen: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEBIT_CACHE", str(tmp_path / "cache"))
    for part in ("train", "val"):  # the same images twice: every file is in one split, in the order of names
        for label in ("a", "b"):
            save_all_kinds(tmp_path / "data" / part / label)
    data = load_dataset("folder", directory=tmp_path / "data", input_size=SIDE, workers=0, validation=0)
    assert onebit("predict", color, tmp_path / "data" / "val" / "b").status == 0
    assert len(np.unique(seen[0].reshape(14, -1), axis=0)) == 13  # only gray and deep are the same
    np.testing.assert_array_equal(seen[0], data.test.images[data.test.labels == 1])


@pytest.mark.parametrize(
    ("kind", "for_color", "for_gray"),
    [
        ("jpeg", [], ["RGB made gray"]),
        ("gray", ["gray made RGB"], []),
        ("gray-alpha", ["transparent pixels blended with black", "gray made RGB"], ["transparent pixels blended"]),
        ("bits", ["black and white made RGB"], []),
        ("palette", [], ["palette made gray"]),
        ("rgba", ["transparent pixels blended with black"], ["transparent pixels blended", "RGB made gray"]),
        ("cmyk", ["CMYK made RGB"], ["CMYK made gray"]),
        ("deep", ["16 bits reduced to 8", "gray made RGB"], ["16 bits reduced to 8"]),
        ("deep-clear", ["16 bits", "transparent pixels", "gray made RGB"], ["16 bits", "transparent pixels"]),
        ("turned", ["turned as its EXIF orientation says"], ["turned as", "RGB made gray"]),
        ("frames", ["only the first of its frames"], ["palette made gray", "only the first of its frames"]),
        ("webp-frames", ["only the first of its frames"], ["RGB made gray", "only the first of its frames"]),
        ("small", [], ["RGB made gray"]),
        ("fits", [], ["RGB made gray"]),
    ],
)
def test_each_change_is_said(
    onebit: Onebit, color: Path, gray: Path, tmp_path: Path, kind: str, for_color: list[str], for_gray: list[str]
) -> None:
    path = save_all_kinds(tmp_path / "kinds")[kind]
    resized = {
        "jpeg": ["the center 600×600 of 900×600 pixels resized to 16×16"],
        "turned": ["the center 30×30 of 30×40 pixels resized to 16×16"],
        "small": ["the center 8×8 of 9×8 pixels enlarged to 16×16"],
        "fits": [],
    }.get(kind, ["the center 30×30 of 40×30 pixels resized to 16×16"])
    for net, changes in ((color, for_color), (gray, for_gray)):
        expected = sorted([*changes, *resized])
        *said, certified = onebit("predict", net, path).err.splitlines()
        assert len(said) == len(expected), said
        assert all(line.startswith(f"{path}: ") for line in said)
        assert all(any(words in line for line in said) for words in expected), said
        assert certified.startswith("not certified")


def test_an_opaque_image_with_alpha_and_one_without_orientation_are_not_changed(
    onebit: Onebit, color: Path, tmp_path: Path
) -> None:
    image, upright = smooth(SIDE, SIDE), Image.Exif()
    upright[0x0112] = 1
    image.putalpha(255)
    image.save(tmp_path / "opaque.png", exif=upright)
    assert onebit("predict", color, tmp_path / "opaque.png").err.count("\n") == 1  # that it is not certified


def test_16_bits_of_colors_are_said_too(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(deep_png())
    said = onebit("predict", color, tmp_path / "deep.png").err.splitlines()
    assert said[:-1] == [f"{tmp_path}/deep.png: 16 bits reduced to 8"]
    for highest, changes in ((65535, ["16 bits reduced to 8"]), (256, ["16 bits reduced to 8"]), (255, []), (63, [])):
        values = np.linspace(0, highest, SIDE * SIDE * 3).astype(int)
        pixels = values.astype(">u2" if highest > 255 else "u1").tobytes()
        (tmp_path / "colors.ppm").write_bytes(b"P6 %d %d %d\n" % (SIDE, SIDE, highest) + pixels)
        (tmp_path / "plain.ppm").write_text(f"P3 {SIDE} {SIDE} {highest}\n{' '.join(map(str, values))}\n")
        for name in ("colors.ppm", "plain.ppm"):
            said = onebit("predict", color, tmp_path / name).err.splitlines()
            assert said[:-1] == [f"{tmp_path}/{name}: {change}" for change in changes]


@pytest.mark.parametrize(("most", "told"), [(4095, 15), (16383, 63), (16700, None), (65535, None)])
def test_16_bits_that_hold_fewer_are_named(
    onebit: Onebit, gray: Path, tmp_path: Path, most: int, told: int | None
) -> None:
    """As of a camera with 12 bits: in 8 bits, the image would be nearly black."""
    Image.fromarray(np.linspace(0, most, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)).save(tmp_path / "a.tif")
    (line, _) = onebit("predict", gray, tmp_path / "a.tif").err.splitlines()
    dim = f", of which the brightest pixel has {told} of 255: if the file holds 12 or 14 bits, stretch it first"
    assert line == f"{tmp_path}/a.tif: 16 bits reduced to 8{dim if told else ''}"


@pytest.mark.parametrize("order", [("dim", "full"), ("full", "dim")])
def test_dim_images_of_16_bits_are_not_alike_others(
    onebit: Onebit, gray: Path, tmp_path: Path, order: tuple[str, str]
) -> None:
    for name, most in (("dim", 4095), ("full", 65535)):
        values = np.linspace(0, most, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    said = onebit("predict", gray, *(tmp_path / f"{name}.png" for name in order)).err.splitlines()
    assert f"{tmp_path}/full.png: 16 bits reduced to 8" in said
    assert [line for line in said if "dim.png: 16 bits reduced to 8, of which the brightest pixel has 15 of" in line]


def test_a_folder_with_brackets_is_no_pattern(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    for name in ("set [1]", "set 1"):
        (tmp_path / name / "inner").mkdir(parents=True)
        for file in ("a.png", "inner/b.png"):
            smooth(SIDE, SIDE).save(tmp_path / name / file)
    for pattern, found in (("*.png", ["a.png"]), ("[ab].png", ["a.png"]), ("**/*.png", ["a.png", "inner/b.png"])):
        done = onebit("predict", color, tmp_path / "set [1]" / pattern, "--json")
        expected = [str(tmp_path / "set [1]" / file) for file in found]
        assert [one["file"] for one in done.json["predictions"]] == expected
    assert "no file matches this pattern" in onebit("predict", color, tmp_path / "set [2]" / "*.png").line


def test_a_line_feed_in_a_name_stays_in_its_line(onebit: Onebit, gray: Path, tmp_path: Path) -> None:
    smooth(SIDE, SIDE).save(tmp_path / "a\nb.png")
    (line, _) = onebit("predict", gray, tmp_path / "a\nb.png").err.splitlines()
    assert line == f"{tmp_path}/a\\nb.png: RGB made gray"


def deep_png(clear: int | None = None) -> bytes:
    """A PNG with 16 bits of each color.

    Args:
        clear: the value of all channels that is transparent.
    """
    rows = np.zeros((SIDE, 1 + SIDE * 6), np.uint8)  # a filter byte, then 16 bits of each color
    rows[:, 1::2] = 200 - np.arange(SIDE * 3)
    return png(rows, bits=16, color=2, clear=None if clear is None else struct.pack(">HHH", clear, clear, clear))


def gray_png(bits: int, clear: int) -> bytes:
    """A gray PNG, black with a white left half; `clear` is the transparent number of its `bits` bits."""
    white = np.repeat(np.arange(SIDE) < SIDE // 2, bits)
    rows = np.tile(np.packbits(np.concatenate([np.zeros(8, bool), white])), (SIDE, 1))
    return png(rows, bits=bits, color=0, clear=struct.pack(">H", clear))


def png(rows: np.ndarray, *, bits: int, color: int, clear: bytes | None) -> bytes:
    """A square PNG of SIDE rows of bytes, each after its filter byte."""
    size = struct.pack(">IIBBBBB", SIDE, SIDE, bits, color, 0, 0, 0)
    marked = [] if clear is None else [(b"tRNS", clear)]
    chunks = [(b"IHDR", size), *marked, (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_gray_of_any_bits(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "gray.png"
    for clear, seen in ((0, [255, 9]), ((1 << bits) - 1, [9, 0])):
        path.write_bytes(gray_png(bits, clear))
        with opened(str(path)) as image:
            assert np.asarray(picture(image, "L", paper=9))[:, [0, -1]].tolist() == [seen] * SIDE


def test_a_transparent_color_of_16_bits_is_refused(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    """Pillow would compare it with pixels of 8 bits, and make others transparent."""
    (tmp_path / "clear.png").write_bytes(deep_png(clear=0x3400))
    assert "clear.png: does not decode as an image: one of its colors of 16 bits is transparent" in (
        onebit("predict", color, tmp_path / "clear.png").line
    )


def test_16_bits_of_three_colors_together_are_not_deep(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    """A BMP with 5 bits of red, 6 of green and 5 of blue."""
    pixels = np.arange(SIDE * SIDE, dtype="<u2").tobytes()
    size = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    start = 14 + len(size) + len(masks)
    head = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    (tmp_path / "few.bmp").write_bytes(head + size + masks + pixels)
    assert len(onebit("predict", color, tmp_path / "few.bmp").err.splitlines()) == 1  # that it is not certified


def test_a_change_of_many_images_is_one_line(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        smooth(20, 20, i).save(folder / f"{i}.png")
        smooth(20, 30, i).convert("L").save(folder / f"wide{i}.png")
    smooth(4, 4).save(folder / "small.png")
    assert onebit("predict", color, folder).err.splitlines()[:-1] == [
        f"{folder}/0.png: resized from 20×20 to 16×16, and 3 other images alike",
        f"{folder}/small.png: enlarged from 4×4 to 16×16",
        f"{folder}/wide0.png: gray made RGB, and 3 other images alike",
        f"{folder}/wide0.png: the center 20×20 of 30×20 pixels resized to 16×16, and 3 other images alike",
    ]


def test_files_that_do_not_decode_are_named_and_the_others_are_predicted(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        smooth(SIDE, SIDE, i).save(folder / f"{i}.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "page.jpg").write_text("<html>")
    done = onebit("predict", color, folder, "--json")
    assert done.status == 2
    assert [Path(one["file"]).name for one in done.json["predictions"]] == ["0.png", "2.png"]
    assert [Path(one["file"]).name for one in done.json["failed"]] == ["1.png", "page.jpg"]
    assert "1.png: does not decode" in done.err
    assert "page.jpg: is not an image" in done.err
    refused = onebit("predict", color, folder / "1.png", folder / "page.jpg")
    assert (refused.status, refused.out) == (2, "")
    assert [Path(line.split(": ")[1]).name for line in refused.err.splitlines()] == ["1.png", "page.jpg"]
    answer = onebit("predict", color, folder / "1.png", folder / "page.jpg", "--json").json
    assert (answer["predictions"], [Path(one["file"]).name for one in answer["failed"]]) == ([], ["1.png", "page.jpg"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE // 2 - 1)
    assert "decompression bomb" in onebit("predict", color, folder / "0.png").line


def test_other_files_of_a_folder_are_counted_and_hidden_ones_ignored(
    onebit: Onebit, color: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    (folder / ".thumbnails").mkdir(parents=True)
    for name in ("a.png", "._a.png", ".thumbnails/a.png"):
        smooth(SIDE, SIDE).save(folder / name)
    for name in ("b.heic", "c.heic", "notes.txt", "LICENSE", ".DS_Store"):
        (folder / name).write_text("no image")
    done = onebit("predict", color, folder, "--json")
    assert done.status == 0
    assert [one["file"] for one in done.json["predictions"]] == [f"{folder}/a.png"]
    assert f"{folder}: left out what does not end as an image: 1 without a suffix, 2 .heic, 1 .txt\n" in done.err


def test_links_to_folders_are_named_and_not_followed(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "photos", tmp_path / "other"
    for place in (folder, other):
        place.mkdir()
        smooth(SIDE, SIDE).save(place / "a.png")
    (folder / "linked.png").symlink_to(other / "a.png")
    (folder / "more").symlink_to(other)
    (folder / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "self").symlink_to(folder)
    done = onebit("predict", color, folder, "--json")
    assert [one["file"] for one in done.json["predictions"]] == [f"{folder}/a.png", f"{folder}/linked.png"]
    assert f"left out what is not a file, such as a link to a folder: {folder}/lost.png and 2 more\n" in done.err
    assert f"/*: left out what is not a file, such as a folder: {folder}/lost.png and 2 more\n" in (
        onebit("predict", color, f"{folder}/*").err
    )
    found = onebit("predict", color, f"{folder}/**/a.png", "--json").json["predictions"]
    assert [one["file"] for one in found] == [f"{folder}/a.png", f"{folder}/more/a.png"]


def test_a_folder_that_cannot_be_read_is_an_error(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth(SIDE, SIDE).save(tmp_path / "a.png")
    closed, scan = tmp_path / "closed", os.scandir
    closed.mkdir()

    def refuse(path: Any) -> Any:
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for folder in (tmp_path, closed):
        refused = onebit("predict", color, folder)
        assert (refused.status, refused.out, refused.line) == (2, "", f"onebit: {closed}: Permission denied")


def test_a_file_that_pillow_gives_to_another_program_is_refused(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n%%EndProlog\nshowpage\n%%EOF\n"
    path = tmp_path / "page.png"
    path.write_bytes(page)
    with Image.open(path) as image:
        assert image.format == "EPS"  # which Ghostscript would draw
    for word in (str(path), "-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(page)))
        assert "is not an image of a known kind (JPEG, " in onebit("predict", color, word).line


def test_the_most_probable_labels(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    smooth(SIDE, SIDE).save(tmp_path / "a.png")
    pixels = np.asarray(smooth(SIDE, SIDE)).transpose(2, 0, 1)[np.newaxis]
    [logits] = run(load(color), pixels)
    probabilities, best = softmax(logits), np.argsort(-logits, kind="stable")
    assert best[:5].tolist() != np.argsort(-probabilities, kind="stable")[:5].tolist()  # float32 has many of them as 0
    for count, shown in ((1, 1), (5, 5), (100, 12)):
        done = onebit("predict", color, tmp_path / "a.png", "--top", count, "--json")
        [found] = done.json["predictions"]
        assert [one["label"] for one in found["top"]] == best[:shown].tolist()
        assert [one["probability"] for one in found["top"]] == pytest.approx(probabilities[best[:shown]].tolist())
        assert (found["label"], found["name"]) == (best[0], str(best[0]))
    text = onebit("predict", color, tmp_path / "a.png", "--top", 2).out
    shown = ", ".join(f"{label} ({100 * probabilities[label]:.1f} %)" for label in best[:2])
    assert text == f"{tmp_path}/a.png: {shown}\n"
    assert "--top" in onebit("predict", color, tmp_path / "a.png", "--top", 0).line
    refused = onebit("predict", color, tmp_path / "a.png", "--top", 2, "--values")
    assert "--top is for labels" in refused.line


def test_digits_on_white_paper_are_noticed(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    images = load_dataset("mnist-sample").test.images
    np.save(tmp_path / "right.npy", images)
    np.save(tmp_path / "paper.npy", 255 - images)
    assert "looks inverted" not in onebit("predict", packed_file, tmp_path / "right.npy").err
    said = onebit("predict", packed_file, tmp_path / "paper.npy").err
    assert "white on black: add --invert, and 1,999 other images alike" in said
    assert "looks inverted" not in onebit("predict", packed_file, tmp_path / "paper.npy", "--invert").err
    assert "leave out --invert" in onebit("predict", packed_file, tmp_path / "right.npy", "--invert").err
    Image.fromarray(255 - images[0, 0]).resize((300, 200)).save(tmp_path / "scan.png")
    assert "scan.png: looks inverted" in onebit("predict", packed_file, tmp_path / "scan.png").err


def test_options_may_stand_between_files_and_files_may_begin_with_a_dash(
    onebit: Onebit, packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npy", "-b.npy"):
        np.save(tmp_path / name, load_dataset("mnist-sample").test.images[:2])
    for words in (
        (packed_file, "a.npy", "--invert", "./-b.npy"),
        (packed_file, "a.npy", "--invert", "--", "-b.npy"),
        ("--invert", "--", packed_file, "-b.npy", "a.npy"),
        ("--", packed_file, "-b.npy", "a.npy"),
    ):
        found = onebit("predict", *words)
        assert (found.status, len(found.out.splitlines())) == (0, 4), words
    assert ", or ./-b.npy for the file of this name (" in onebit("predict", packed_file, "a.npy", "-b.npy").line
    assert onebit("predict", packed_file, "a.npy", "--topp", 3).line.endswith(
        "did you mean '--top'? (onebit predict --help)"
    )


def test_a_gray_background_is_noticed(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    images = load_dataset("mnist-sample").test.images.astype(np.int64)
    for name, paper, ink, rest, words in (
        ("paper", 200, 40, [], "looks inverted"),
        ("dim-paper", 90, 20, [], "looks inverted"),
        ("paper", 200, 40, ["--invert"], "gray background, where that of MNIST is black: labels are often wrong"),
        ("board", 20, 230, [], "make the background black first"),
        ("noise", 2, 255, [], ""),
    ):
        np.save(tmp_path / f"{name}.npy", (paper + (ink - paper) * images // 255).astype(np.uint8))
        said = onebit("predict", packed_file, tmp_path / f"{name}.npy", *rest).err
        if words:
            assert words in said
            assert "and 1,999 other images alike" in said
        assert ("looks inverted" in said, "gray background" in said) == ("inverted" in words, "background" in words)


def test_light_paper_in_a_dark_frame_is_noticed(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    images = load_dataset("mnist-sample").test.images.astype(np.int64)
    for paper, ink, words in ((255, 0, "looks inverted"), (60, 255, "has a gray background")):
        framed = (paper + (ink - paper) * images // 255).astype(np.uint8)
        border = np.ones((28, 28), bool)
        border[2:-2, 2:-2] = False
        framed[:, :, border] = 0
        np.save(tmp_path / "framed.npy", framed)
        said = onebit("predict", packed_file, tmp_path / "framed.npy").err
        assert words in said
        assert "and 1,9" in said  # a digit that covers half of the image hides its paper


def test_a_dim_digit_is_noticed(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    images = load_dataset("mnist-sample").test.images[:9].astype(np.int64)
    for brightest, words in (
        (1, "is dim: its brightest pixel has 1 of 255"),
        (199, "brightest pixel has 199 of 255, where MNIST has 255: labels are often wrong; stretch its values"),
        (200, ""),
    ):
        np.save(tmp_path / "dim.npy", (brightest * images // images.max(axis=(1, 2, 3), keepdims=True)).astype("uint8"))
        said = onebit("predict", packed_file, tmp_path / "dim.npy").err
        assert words in said
        assert ("is dim" in said, "8 other images alike" in said) == (bool(words), bool(words))
    np.save(tmp_path / "black.npy", np.zeros((1, 1, 28, 28), np.uint8))
    said = onebit("predict", packed_file, tmp_path / "black.npy").err
    assert "is dim" not in said
    assert "black.npy: is blank: all pixels have one value\n" in said


def test_digits_that_are_not_placed_as_in_mnist_are_noticed(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    images = load_dataset("mnist-sample").test.images[:50, 0]

    def said(digits: list[np.ndarray]) -> str:
        np.save(tmp_path / "x.npy", np.stack(digits)[:, np.newaxis])
        return onebit("predict", packed_file, tmp_path / "x.npy").err

    def moved(digit: np.ndarray, down: int, right: int) -> np.ndarray:
        wide = np.pad(digit, 4)
        return wide[4 - down : 32 - down, 4 - right : 32 - right]

    def scaled(digit: np.ndarray, side: int) -> np.ndarray:
        """The digit with this longer side, its center of mass in the middle as before."""
        size = 28 * side // 20
        inner = Image.fromarray(digit).resize((size, size), Image.Resampling.BILINEAR)
        paper = Image.new("L", (28, 28))
        paper.paste(inner, ((28 - size) // 2, (28 - size) // 2))
        return np.asarray(paper)

    def cut(digit: np.ndarray) -> np.ndarray:
        rows, columns = (np.flatnonzero(digit.any(axis=axis)) for axis in (1, 0))
        box = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return np.asarray(Image.fromarray(box).resize((28, 28), Image.Resampling.BILINEAR))

    assert "digit" not in said(list(images))
    assert "digit" not in said([moved(image, 0, 1) for image in images])
    for down, right in ((3, 0), (-3, 0), (1, 4)):
        off = said([moved(image, down, right) for image in images])
        assert f"x.npy: has a digit that is off center by {max(abs(down), right)} pixels, where" in off
        assert "and 49 other images alike" in off
        assert off.count("has a digit") == 1
    large, small = said([cut(image) for image in images]), said([scaled(image, 12) for image in images])
    assert (
        "has a digit of 28 pixels, where those of MNIST have 20 of 28: labels are often wrong; leave a margin" in large
    )
    assert "pixels, where those of MNIST have 20 of 28: labels are often wrong; cut the image closer first" in small
    assert "and 49 other images alike" in small


def test_the_answer_has_the_notes_on_each_image(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    images = load_dataset("mnist-sample").test.images
    Image.fromarray(images[0, 0]).save(tmp_path / "a.png")
    Image.fromarray(255 - images[1, 0]).convert("RGB").resize((40, 40)).save(tmp_path / "b.png")
    np.save(tmp_path / "c.npy", np.stack([images[2], np.zeros_like(images[0]), images[3] // 2]))
    done = onebit("predict", packed_file, tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.npy", "--json").json
    fine, paper, first, blank, dim = (one["notes"] for one in done["predictions"])
    assert (fine, first, blank) == ([], [], ["is blank: all pixels have one value"])
    assert paper[:2] == ["RGB made gray", "resized from 40×40 to 28×28"]
    assert paper[2].startswith("looks inverted")
    assert len(paper) == 3
    assert [note.partition(":")[0] for note in dim] == ["is dim"]


@pytest.mark.parametrize("most", [1023, 65535])
def test_pgm_of_more_than_8_bits_is_read(onebit: Onebit, gray: Path, tmp_path: Path, most: int) -> None:
    values = np.linspace(0, most, 16 * 16).round().astype(">u2")
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 16 %d\n" % most + values.tobytes())
    Image.fromarray((values.astype(np.int64) * 255 // most).astype(np.uint8).reshape(16, 16)).save(tmp_path / "8.png")
    deep, same = onebit("predict", gray, tmp_path / "deep.pgm", tmp_path / "8.png", "--json").json["predictions"]
    assert deep["notes"] == ["16 bits reduced to 8"]
    assert deep["probability"] == pytest.approx(same["probability"], abs=1e-2)


def test_why_a_file_cannot_be_read_is_said(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth(SIDE, SIDE).save(tmp_path / "a.png")
    for error, words in (
        (MemoryError(), "a.png: needs more memory than there is"),
        (PermissionError(13, "Permission denied"), "a.png: Permission denied"),
    ):

        def fail(*args: object, error: BaseException = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(Image, "open", fail)
        assert onebit("predict", color, tmp_path / "a.png").line.endswith(words)


def test_a_picture_of_one_color_is_blank(onebit: Onebit, color: Path, packed_file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / "red.png")
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    assert "red.png: is blank" in onebit("predict", color, tmp_path / "red.png").err
    said = onebit("predict", packed_file, tmp_path / "white.png").err
    assert "white.png: is blank" in said
    assert "background" not in said


def test_dark_ink_on_transparency_is_a_digit_when_inverted(
    onebit: Onebit, packed_file: Path, tmp_path: Path, seen: list[np.ndarray]
) -> None:
    digit = load_dataset("mnist-sample").test.images[:1]
    ink, path = np.zeros((28, 28, 4), np.uint8), tmp_path / "ink.png"
    ink[..., 3] = digit[0, 0]
    Image.fromarray(ink).save(path)
    blank, right = onebit("predict", packed_file, path), onebit("predict", packed_file, path, "--invert")
    assert f"{path}: transparent pixels blended with black\n" in blank.err
    assert f"{path}: is blank: all pixels have one value\n" in blank.err
    assert f"{path}: transparent pixels blended with white\n" in right.err
    assert "blank" not in right.err
    np.testing.assert_array_equal(seen[1], digit)


def test_standard_input_is_one_image(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    smooth(20, 20).convert("L").save(stream, "PNG")
    for data, reason in ((stream.getvalue(), ""), (stream.getvalue()[:90], "standard input: does not decode")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        done = onebit("predict", color, "-")
        assert (done.status, reason in done.err) == (2 if reason else 0, True)
        assert reason or "standard input: gray made RGB" in done.err
    monkeypatch.chdir(tmp_path)
    smooth(20, 20, 3).save("-", "PNG")
    assert onebit("predict", color, "./-", "--json").json["predictions"][0]["file"] == str(tmp_path / "-")
    assert "'-' was given more than once" in onebit("predict", color, "-", "-").line


def test_names_of_files_cannot_write_to_the_terminal(color: Path, tmp_path: Path, onebit: Onebit) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    for name in ("a\x1b[2J.png", "b\nc.png", os.fsdecode(b"d\xff.png")):
        smooth(20, 30).save(folder / name)
    done = onebit("predict", color, folder)
    assert done.status == 0
    assert "a\\x1b[2J.png: " in done.out
    assert "b\\nc.png: " in done.out
    assert "d\\udcff.png: " in done.out
    assert "\\x1b[2J.png: " in done.err  # what was done to the image
    assert "\x1b" not in done.out + done.err
    answer = onebit("predict", color, folder, "--json").json
    assert [Path(one["file"]).name for one in answer["predictions"]][:2] == ["a\x1b[2J.png", "b\nc.png"]


def test_a_pipe_is_not_read_and_standard_input_is_offered(onebit: Onebit, gray: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.csv"):
        os.mkfifo(tmp_path / name)
        refused = onebit("predict", gray, tmp_path / name)
        assert refused.status == 2
        assert ": not a regular file; - reads standard input: onebit predict NET - < FILE" in refused.line
    assert "no such image file" in onebit("predict", gray, tmp_path / "gone.png").line
