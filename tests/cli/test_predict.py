"""`onebit predict` with images of any size and kind, and with numbers in .npy and .csv files."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onebit.cli import predict_verb
from onebit.data import load_dataset
from onebit.packed import Certificate, Dense, Flatten, InputSpec, PackedNet, RealDense, Relu, save
from onebit.runtime import load, run, softmax
from support.command_line import Onebit
from support.packed_nets import Builder

SIDE = 16
FEATURES = 5


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
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What the net is given."""
    given: list[np.ndarray] = []
    monkeypatch.setattr(predict_verb, "run", lambda net, x: (given.append(x), run(net, x))[1])
    return given


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def save_all_kinds(folder: Path) -> None:
    """The same picture, 30×40, as every kind of file."""
    folder.mkdir(parents=True)
    rgb = smooth(30, 40)
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (30, 1))))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "jpeg.jpg": (smooth(600, 900), {}),  # decoded at a quarter of its size
        "gray.png": (rgb.convert("L"), {}),
        "gray-alpha.png": (alpha.convert("LA"), {}),
        "bits.bmp": (rgb.convert("1"), {}),
        "palette.png": (rgb.quantize(16), {}),
        "rgba.webp": (alpha, {"lossless": True}),
        "cmyk.tif": (rgb.convert("CMYK"), {}),
        "deep.png": (Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257), {}),
        "turned.jpg": (rgb, {"exif": turned}),
        "frames.gif": (rgb, {"save_all": True, "append_images": [smooth(30, 40, 1), smooth(30, 40, 2)]}),
        "webp-frames.webp": (rgb, {"save_all": True, "append_images": [smooth(30, 40, 1)]}),
        "small.ppm": (rgb.resize((9, 8)), {}),
        "fits.png": (rgb.resize((SIDE, SIDE)), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    ten_bits = np.rint(np.asarray(rgb.convert("L")) * (1023 / 255)).astype(">u2")
    (folder / "deep.pgm").write_bytes(b"P5 40 30 1023\n" + ten_bits.tobytes())


def test_a_net_sees_the_pixels_that_training_on_a_folder_gives(
    onebit: Onebit, color: Path, tmp_path: Path, seen: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEBIT_CACHE", str(tmp_path / "cache"))
    for part in ("train", "val"):  # the same images twice: every file is in one split, in the order of names
        for label in ("a", "b"):
            save_all_kinds(tmp_path / "data" / part / label)
    data = load_dataset("folder", directory=tmp_path / "data", input_size=SIDE, workers=0, validation=0)
    folder = tmp_path / "data" / "val" / "b"
    found = onebit("predict", color, folder, "--json").json["predictions"]
    assert len(np.unique(seen[0].reshape(14, -1), axis=0)) >= 12  # only gray and deep are the same
    names = [Path(one["file"]).name for one in found]
    gray = seen[0][names.index("gray.png")].astype(int)
    assert all(np.abs(seen[0][names.index(name)] - gray).max() <= 1 for name in ("deep.pgm", "deep.png"))
    np.testing.assert_array_equal(seen[0], data.test.images[data.test.labels == 1])
    notes = {Path(one["file"]).name: one["notes"] for one in found}
    assert (notes["fits.png"], notes["gray.png"]) == ([], ["the center of 40×30 pixels resized to 16×16"])


def test_broken_images_are_named(onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        smooth(SIDE, SIDE, i).save(folder / f"{i}.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "page.jpg").write_text("<html>")
    for words, good in (([folder], ["0.png", "2.png"]), ([folder / "1.png", folder / "page.jpg"], [])):
        done = onebit("predict", color, *words, "--json")
        assert done.status == 2
        for kind, names in (("predictions", good), ("failed", ["1.png", "page.jpg"])):
            assert [Path(one["file"]).name for one in done.json[kind]] == names
    refused = onebit("predict", color, *words)
    assert (refused.status, refused.out, "<" in refused.err) == (2, "", False)  # no stream of Python
    assert [Path(line.split(": ")[1]).name for line in refused.err.splitlines()] == ["1.png", "page.jpg"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE // 2 - 1)
    assert "decompression bomb" in onebit("predict", color, folder / "0.png").line


def test_folders_and_patterns_are_images_and_nothing_else(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "photos", tmp_path / "other"
    for name in ("more", ".thumbnails"):
        (folder / name).mkdir(parents=True)
    other.mkdir()
    images = [folder / "a.PNG", folder / "linked.png", folder / "more" / "[2].bmp"]
    for path in (*images, folder / "._a.png", folder / ".thumbnails" / "a.png", other / "a.png"):
        if path.name != "linked.png":
            smooth(SIDE, SIDE, len(path.name)).save(path)
    (folder / "notes.txt").write_text("no image")
    os.mkfifo(folder / "pipe.png")  # opening it would wait for its writer
    for name, target in {"linked.png": "a.png", "to": ".", "lost.png": "b.png", "self": folder}.items():
        (folder / name).symlink_to(other / target)
    expected = [row["label"] for row in onebit("predict", color, *images, "--json").json["predictions"]]
    standard_input(monkeypatch, images[0].read_bytes())
    for words, indices in (
        ([folder], [0, 1, 2]),
        ([folder / "*.png"], [1]),
        ([folder / "more" / "*"], [2]),
        ([folder / "more" / "**" / "*.bmp"], [2]),
        ([images[2]], [2]),  # brackets in a name are no pattern
        ([images[1], "-"], [1, 0]),
    ):
        found = onebit("predict", color, *words, "--json").json["predictions"]
        names = [str(images[index]) for index in indices]
        assert [one["file"] for one in found] == ([*names[:1], "-"] if "-" in words else names)
        assert [one["label"] for one in found] == [expected[index] for index in indices]
    assert "standard input" in onebit("predict", color, "-").line  # it was read
    assert "no images" in onebit("predict", color, f"{folder}/[b-d].png").line


def test_what_is_no_image_is_one_line(
    onebit: Onebit, color: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n%%EndProlog\nshowpage\n%%EOF\n"
    (tmp_path / "page.png").write_bytes(page)
    with Image.open(tmp_path / "page.png") as image:
        assert image.format == "EPS"  # which Ghostscript would draw
    for name in ("pipe.png", "pipe.csv"):
        os.mkfifo(tmp_path / name)
    stream = io.BytesIO()
    smooth(20, 20).convert("L").save(stream, "PNG")
    standard_input(monkeypatch, stream.getvalue())
    assert onebit("predict", color, "-").status == 0
    for word, data, noun in (
        ("-", stream.getvalue()[:90], "standard input"),
        ("-", page, "image"),
        ("page.png", b"", "image"),
        ("pipe.png", b"", "regular file"),
        ("pipe.csv", b"", "regular file"),
        ("gone.png", b"", "gone.png"),
    ):
        standard_input(monkeypatch, data)
        refused = onebit("predict", color, word if word == "-" else tmp_path / word)
        assert (refused.status, refused.out, noun in refused.line) == (2, "", True), word

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    refused = onebit("predict", color, tmp_path)
    assert (refused.status, refused.out, str(tmp_path) in refused.line) == (2, "", True)


def test_the_most_probable_labels(onebit: Onebit, color: Path, tmp_path: Path) -> None:
    smooth(SIDE, SIDE).save(tmp_path / "a.png")
    pixels = np.asarray(smooth(SIDE, SIDE)).transpose(2, 0, 1)[np.newaxis]
    [logits] = run(load(color), pixels)
    probabilities, best = softmax(logits), np.argsort(-logits, kind="stable")
    assert best[:5].tolist() != np.argsort(-probabilities, kind="stable")[:5].tolist()  # float32 has many of them as 0
    for count, shown in ((1, 1), (5, 5), (100, 12)):
        [found] = onebit("predict", color, tmp_path / "a.png", "--top", count, "--json").json["predictions"]
        assert [one["label"] for one in found["top"]] == best[:shown].tolist()
        assert [one["probability"] for one in found["top"]] == pytest.approx(probabilities[best[:shown]].tolist())
        assert (found["label"], found["name"]) == (best[0], str(best[0]))
    text = onebit("predict", color, tmp_path / "a.png", "--top", 2).out
    shown = ", ".join(f"{label} ({100 * probabilities[label]:.1f} %)" for label in best[:2])
    assert text == f"{tmp_path}/a.png: {shown}\n"
    assert "--top" in onebit("predict", color, tmp_path / "a.png", "--top", 0).line


def test_alpha_is_inverted(onebit: Onebit, tmp_path: Path, seen: list[np.ndarray]) -> None:
    gray, ink, path = save_net(tmp_path / "gray.1bit", 1), np.zeros((SIDE, SIDE, 4), np.uint8), tmp_path / "ink.png"
    ink[..., 3] = np.tri(SIDE) * 200
    Image.fromarray(ink).save(path)
    for flags in ((), ("--invert",)):
        assert onebit("predict", gray, path, *flags).status == 0
    assert not seen[0].any()
    np.testing.assert_array_equal(seen[1][0, 0], ink[..., 3])


def test_options_between_files_and_files_with_a_dash(onebit: Onebit, here: Path) -> None:
    gray = save_net(here / "gray.1bit", 1)
    for name in ("a.npy", "-b.npy"):
        np.save(here / name, np.zeros((2, 1, SIDE, SIDE), np.uint8))
    for words in ((gray, "a.npy", "--invert", "./-b.npy"), ("--invert", "--", gray, "-b.npy", "a.npy")):
        found = onebit("predict", *words)
        assert (found.status, len(found.out.splitlines())) == (0, 4), words
    assert onebit("predict", gray, "a.npy", "-b.npy").status == 2


def feature_net(outputs: int = 3, *, dtype: str = "float32", **fields: Any) -> PackedNet:
    """Features -> dense layers."""
    b = Builder((1, 1, 1), seed=3)
    b.input = InputSpec(shape=(FEATURES,), dtype=dtype, coding="values", meaning="measurements")
    b.values = {"input": b.input.value}
    b.add(RealDense, weight=b.real(8, FEATURES))
    b.add(Relu)
    b.add(RealDense, weight=b.real(outputs, 8))
    return dataclasses.replace(b.net(), **fields)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    save(feature_net(classes=("a", "b", "c")), tmp_path / "net.1bit")
    return tmp_path / "net.1bit"


@pytest.fixture
def samples(tmp_path: Path) -> np.ndarray:
    """Four samples, also in x.npy."""
    made = np.random.default_rng(0).standard_normal((4, FEATURES)).astype(np.float32)
    np.save(tmp_path / "x.npy", made)
    return made


def test_arrays_and_tables_give_what_the_executor_gives(
    onebit: Onebit, net: Path, samples: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = net.parent
    np.save(folder / "wide.npy", samples.astype(np.float64))
    np.save(folder / "one.npy", samples[2])
    rows = [",".join(map(repr, row)) for row in samples.tolist()]
    tables = {
        "plain.csv": "\n".join(rows) + "\n\n",
        "named.csv": "\ufeffu,v,w,x,y\n" + "\n".join(rows),
        "german.csv": "\n".join(row.replace(",", "; ") for row in rows),
    }
    for name, text in tables.items():
        (folder / name).write_text(text, encoding="utf-8")
    heads = "L\u00e4nge;Breite;H\u00f6he;y;z\n"
    (folder / "windows.csv").write_text(heads + "\n".join(rows).replace(",", ";"), encoding="cp1252")
    expected = softmax(run(load(net), samples))
    for name in ("x.npy", "wide.npy", *tables, "windows.csv"):
        found = onebit("predict", net, folder / name, "--json").json["predictions"]
        assert [row["index"] for row in found] == [0, 1, 2, 3]
        assert [row["label"] for row in found] == expected.argmax(axis=1).tolist()
        assert [row["probability"] for row in found] == expected.max(axis=1).tolist()
        assert found[0].keys() == {"file", "index", "label", "name", "probability"}
    [one] = onebit("predict", net, folder / "one.npy", "--json").json["predictions"]
    assert one == {"file": str(folder / "one.npy"), **{k: v for k, v in found[2].items() if k not in ("file", "index")}}
    standard_input(monkeypatch, (folder / "plain.csv").read_bytes())
    assert len(onebit("predict", net, "-", "--json").json["predictions"]) == 4
    both = onebit("predict", net, folder / "one.npy", folder / "[px]*.npy")
    assert len(both.out.splitlines()) == 5
    assert f"{folder / 'x.npy'} [3]: " in both.out


def test_outputs_without_labels_are_numbers(
    onebit: Onebit, tmp_path: Path, samples: np.ndarray, certificate: Certificate
) -> None:
    """Of a regression, of several labels, and where they are asked for."""
    path, x = tmp_path / "net.1bit", tmp_path / "x.npy"
    for outputs, compared, flags in ((1, "", []), (3, "", ["--values"]), (3, "values", []), (3, "multi-label", [])):
        made = dataclasses.replace(certificate, compared=compared or "labels", correct=None, layers=())
        save(feature_net(outputs, certificate=made if compared else None), path)
        expected = run(load(path), samples)
        found = onebit("predict", path, x, *flags, "--json").json["predictions"]
        assert [row["values"] for row in found] == expected.tolist()
        assert found[0].keys() == {"file", "index", "values"}
        text = onebit("predict", path, x, *flags).out
        assert text.splitlines()[1] == f"{x} [1]: " + ", ".join(f"{value:.6g}" for value in expected[1])
        for verb in ("evaluate", "verify") if compared else ():
            refused = onebit(verb, path)
            assert (refused.status, refused.out, "labels" in refused.line) == (2, "", True)


@pytest.mark.parametrize("several", [("n0", "n2"), {"hidden": "n0", "logits": "n2"}])
def test_several_outputs(
    onebit: Onebit, tmp_path: Path, samples: np.ndarray, several: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(feature_net(output=several), tmp_path / "net.1bit")
    hidden, logits = samples[:, :2], samples[:, 1:4]
    made = (hidden, logits) if isinstance(several, tuple) else {"hidden": hidden, "logits": logits}
    monkeypatch.setattr(predict_verb, "run", lambda net, x: made)
    keys = list(several) if isinstance(several, dict) else ["0", "1"]
    found = onebit("predict", tmp_path / "net.1bit", tmp_path / "x.npy", "--json").json["predictions"]
    assert [row["outputs"] for row in found] == [
        {keys[0]: hidden[i].tolist(), keys[1]: logits[i].tolist()} for i in range(4)
    ]
    text = onebit("predict", tmp_path / "net.1bit", tmp_path / "x.npy").out
    assert f"; {keys[1]} {logits[0][0]:.6g}, " in text
    assert f"output: {keys[0]} 8, {keys[1]} 3" in onebit("inspect", tmp_path / "net.1bit").out


def test_images_come_as_arrays_too(onebit: Onebit, tmp_path: Path) -> None:
    gray = save_net(tmp_path / "gray.1bit", 1)
    images = np.random.default_rng(1).integers(0, 256, (3, 1, SIDE, SIDE), dtype=np.uint8)
    labels = run(load(gray), images).argmax(axis=1).tolist()
    inverted = run(load(gray), 255 - images).argmax(axis=1).tolist()
    assert labels != inverted
    for array, flags, expected in (
        (images, [], labels),
        (images.astype(np.float64), [], labels),
        (images[:, 0], [], labels),  # as `onebit.run` takes them
        (images[0, 0], [], labels[:1]),
        (images, ["--invert"], inverted),
    ):
        np.save(tmp_path / "x.npy", array)
        found = onebit("predict", gray, tmp_path / "x.npy", *flags, "--json").json["predictions"]
        assert [row["label"] for row in found] == expected


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        np.save(path, content, allow_pickle=content.dtype == object)
    return path


def npy(header: bytes) -> bytes:
    """An .npy file of five bytes with this header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(5)


NAN = np.array([[1, 2, 3, 4, 5], [1, 2, np.nan, 4, np.inf]], np.float32)
HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000, 5), }\n"
ARRAYS = [
    *(np.zeros((2, 4)), np.zeros((0, 5)), np.zeros(5, complex), NAN, np.full(5, 1e300)),
    *(np.array([{"a": 1}], object), b"", b"PK\x03\x04aaaa", npy(b"-" * 3_000 + b"1"), npy(HUGE)),
]
TEXTS = [
    *("", "a,b,c,d,e\nNA,NA,NA,NA,NA\n1,2,3,4,5\n", "1,2,3,4,5\n1,2,3,4\n", "1,2,x,4,5\n", "1,2,3\n"),
    *("1,2,nan,4,5\n", b"\xff\xfe\x00"),
]


@pytest.mark.parametrize(
    ("name", "content"),
    [*(("x.npy", array) for array in ARRAYS), *(("x.csv", text) for text in TEXTS), ("x.png", ""), ("none.csv", None)],
)
def test_what_the_net_does_not_take_is_one_line(onebit: Onebit, net: Path, name: str, content: Any) -> None:
    refused = onebit("predict", net, write(net.parent, name, content))
    assert (refused.status, refused.out) == (2, "")
    assert name in refused.line


def test_each_net_takes_its_own_numbers(onebit: Onebit, tmp_path: Path) -> None:
    """Pixels mean nothing to a net of float32, which was packed without preprocessing; `run` refuses them too."""
    b = Builder((1, SIDE, SIDE), seed=0)
    b.input = InputSpec(shape=(1, SIDE, SIDE), dtype="float32", coding="values")
    b.values = {"input": b.input.value}
    b.add(Flatten)
    b.add(RealDense, weight=b.real(10, SIDE * SIDE))
    save(b.net(), tmp_path / "float.1bit")
    save_net(tmp_path / "two.1bit", 2)
    save(feature_net(dtype="uint8"), tmp_path / "bytes.1bit")
    images = np.random.default_rng(0).integers(0, 256, (3, 1, SIDE, SIDE))
    for model, name, content, flags, noun in (
        ("float", "x.npy", images / 255, [], ""),
        ("float", "x.npy", images.astype(np.uint8), [], "x.npy"),
        ("float", "x.npy", images.astype(bool)[:, 0], [], "x.npy"),
        ("two", "x.npy", np.ones((2, SIDE, SIDE), np.uint8), [], ""),
        ("two", "x.png", b"", [], ".npy"),
        *(("bytes", "x.csv", f"1,2,3,4,{last}", [], "whole numbers") for last in ("256", "-1", "0.5", "nan")),
        ("bytes", "x.csv", "1,2,3,4,255", [], ""),
        ("bytes", "x.csv", "1,2,3,4,255", ["--invert"], "--invert"),
        ("bytes", "x.csv", "1,2,3,4,255", ["--masks", "m"], "--masks"),
    ):
        found = onebit("predict", tmp_path / f"{model}.1bit", write(tmp_path, name, content), *flags)
        assert found.status == (2 if noun else 0), (model, noun)
        assert not noun or noun in found.line
