"""`onebit predict` with images of any size and kind: what a net sees, and what is said about it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onebit.cli import predict_verb
from onebit.data import load_dataset
from onebit.packed import Dense, Flatten, save
from onebit.runtime import load, run, softmax
from support.command_line import Onebit
from support.packed_nets import Builder

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
    assert len(np.unique(seen[0].reshape(13, -1), axis=0)) == 12  # only gray and deep are the same
    np.testing.assert_array_equal(seen[0], data.test.images[data.test.labels == 1])
    names = [tmp_path / "data" / "val" / "b" / name for name in ("fits.png", "gray.png")]
    fits, gray = (one["notes"] for one in onebit("predict", color, *names, "--json").json["predictions"])
    assert (fits, gray) == ([], ["the center of 40×30 pixels resized to 16×16"])


def test_broken_images_are_named(onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    refused = onebit("predict", color, folder / "1.png", folder / "page.jpg")
    assert (refused.status, refused.out) == (2, "")
    assert [Path(line.split(": ")[1]).name for line in refused.err.splitlines()] == ["1.png", "page.jpg"]
    assert "<" not in refused.err  # no stream of Python
    answer = onebit("predict", color, folder / "1.png", folder / "page.jpg", "--json").json
    assert (answer["predictions"], [Path(one["file"]).name for one in answer["failed"]]) == ([], ["1.png", "page.jpg"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE // 2 - 1)
    assert "decompression bomb" in onebit("predict", color, folder / "0.png").line


def test_other_files_hidden_ones_and_linked_folders_are_ignored(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "photos", tmp_path / "other"
    (folder / ".thumbnails").mkdir(parents=True)
    other.mkdir()
    for path in (folder / "a.png", folder / "._a.png", folder / ".thumbnails" / "a.png", other / "a.png"):
        smooth(SIDE, SIDE).save(path)
    (folder / "notes.txt").write_text("no image")
    (folder / "linked.png").symlink_to(other / "a.png")
    (folder / "more").symlink_to(other)
    (folder / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "self").symlink_to(folder)
    for word in (folder, f"{folder}/*.png"):
        found = onebit("predict", color, word, "--json").json["predictions"]
        assert [one["file"] for one in found] == [f"{folder}/a.png", f"{folder}/linked.png"]
    assert "no images" in onebit("predict", color, f"{folder}/[b-d].png").line


def test_a_folder_that_cannot_be_read_is_an_error(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    refused = onebit("predict", color, tmp_path)
    assert (refused.status, refused.out, str(tmp_path) in refused.line) == (2, "", True)


def test_postscript_is_refused(onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n%%EndProlog\nshowpage\n%%EOF\n"
    path = tmp_path / "page.png"
    path.write_bytes(page)
    with Image.open(path) as image:
        assert image.format == "EPS"  # which Ghostscript would draw
    for word in (str(path), "-"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(page)))
        assert "image" in onebit("predict", color, word).line


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


def test_options_between_files_and_files_with_a_dash(
    onebit: Onebit, packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npy", "-b.npy"):
        np.save(tmp_path / name, load_dataset("mnist-sample").test.images[:2])
    for words in (
        (packed_file, "a.npy", "--invert", "./-b.npy"),
        ("--invert", "--", packed_file, "-b.npy", "a.npy"),
    ):
        found = onebit("predict", *words)
        assert (found.status, len(found.out.splitlines())) == (0, 4), words
    assert onebit("predict", packed_file, "a.npy", "-b.npy").status == 2


def test_pgm_of_more_than_8_bits_is_read(onebit: Onebit, gray: Path, tmp_path: Path) -> None:
    most = 1023
    values = np.linspace(0, most, 16 * 16).round().astype(">u2")
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 16 %d\n" % most + values.tobytes())
    Image.fromarray((values.astype(np.int64) * 255 // most).astype(np.uint8).reshape(16, 16)).save(tmp_path / "8.png")
    deep, same = onebit("predict", gray, tmp_path / "deep.pgm", tmp_path / "8.png", "--json").json["predictions"]
    assert deep["probability"] == pytest.approx(same["probability"], abs=1e-2)


def test_alpha_is_inverted(onebit: Onebit, packed_file: Path, tmp_path: Path, seen: list[np.ndarray]) -> None:
    digit = load_dataset("mnist-sample").test.images[:1]
    ink, path = np.zeros((28, 28, 4), np.uint8), tmp_path / "ink.png"
    ink[..., 3] = digit[0, 0]
    Image.fromarray(ink).save(path)
    for flags in ((), ("--invert",)):
        assert onebit("predict", packed_file, path, *flags).status == 0
    assert not seen[0].any()
    np.testing.assert_array_equal(seen[1], digit)


def test_standard_input_is_read(onebit: Onebit, color: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    smooth(20, 20).convert("L").save(stream, "PNG")
    for data, reason in ((stream.getvalue(), ""), (stream.getvalue()[:90], "standard input: cannot be read")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        done = onebit("predict", color, "-")
        assert (done.status, reason in done.err) == (2 if reason else 0, True)


def test_a_pipe_or_a_missing_file_is_an_error(onebit: Onebit, gray: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.csv"):
        os.mkfifo(tmp_path / name)
        refused = onebit("predict", gray, tmp_path / name)
        assert refused.status == 2
        assert "not a regular file" in refused.line
    assert "gone.png" in onebit("predict", gray, tmp_path / "gone.png").line
