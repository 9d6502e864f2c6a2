"""Where `onebit predict` writes the masks of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onebit.cli import masks
from onebit.data import Tiling
from onebit.packed import Conv, PackedNet, load, save
from onebit.runtime import run
from support.command_line import Onebit
from support.packed_nets import Builder


@pytest.mark.parametrize(
    ("images", "masks", "named"),
    [
        (["image/3.png"], "image", "image/3.png"),  # the image
        (["image/5.jpg"], "image", "image/5-beside.png"),  # another file in the folder of the images
        (["image/3.png"], "label", "label/3.png"),  # the true mask, which would then be found to be right
        (["image/3.png", "image/3-beside.png"], "masks", "masks/3-beside.png"),  # the picture of the other image
        (["image/4.jpg"], "drawn", "drawn/4.png"),  # a file that onebit has not written
    ],
)
def test_no_image_and_no_true_mask_is_replaced(
    onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[str], masks: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    there = [f"image/{name}" for name in ("3.png", "4.jpg", "5.jpg", "3-beside.png", "5-beside.png")]
    for path in (*there, "label/3.png", "drawn/4.png"):
        Path(path).parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(path)
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    refused = onebit("predict", "membrane-unet", *images, "--masks", masks)
    assert (refused.status, named in refused.line) == (2, True)
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


def test_masks_of_an_earlier_call_are_replaced(onebit: Onebit, tmp_path: Path) -> None:
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "a\n.png")
    made = []
    for flags in ((), ("--invert",)):
        done = onebit("predict", "membrane-unet", tmp_path / "a\n.png", "--masks", tmp_path / "m", *flags)
        assert (done.status, r"a\n.png: " in done.out) == (0, True)
        made.append([(tmp_path / "m" / name).read_bytes() for name in ("a\n.png", "a\n-beside.png")])
    assert made[0][0] != made[1][0]


def test_a_mask_is_not_written_without_its_picture(onebit: Onebit, tmp_path: Path) -> None:
    name = "x" * 250 + ".png"  # too long for the picture
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / name)
    assert onebit("predict", "membrane-unet", tmp_path / name, "--masks", tmp_path / "m").status == 2
    assert not list((tmp_path / "m").iterdir())
    (tmp_path / "a.png").write_bytes(b"no image")  # nothing to write: no folder
    assert onebit("predict", "membrane-unet", tmp_path / "a.png", "--masks", tmp_path / "none").status == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("mask", "said"), [("3.txt", ""), ("3.png", "3.png is not compared with its true mask: ")])
def test_a_true_mask_that_cannot_be_read_stops_nothing(onebit: Onebit, tmp_path: Path, mask: str, said: str) -> None:
    for folder in ("image", "label"):
        (tmp_path / folder).mkdir()
    for name in ("3.png", "4.png"):
        Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "image" / name)
    (tmp_path / "label" / mask).write_bytes(b"no mask")
    done = onebit("predict", "membrane-unet", tmp_path / "image", "--masks", tmp_path / "masks")
    assert (done.status, len(done.out.splitlines())) == (0, 2)
    assert ("not compared" in done.err, said in done.err) == (bool(said), True)


def masked(folder: Path, high: int, classes: str = "") -> Path:
    """A folder with one image and its mask, which has the values 0 and `high`; returns the image."""
    for part in ("image", "label"):
        (folder / part).mkdir(parents=True)
    pixels = np.eye(40, dtype=np.uint8)
    Image.fromarray(pixels * 255).save(folder / "image" / "3.png")
    Image.fromarray(pixels * high).save(folder / "label" / "3.png")
    if classes:
        (folder / "classes.txt").write_text(classes)
    return folder / "image" / "3.png"


@pytest.mark.parametrize(
    ("high", "classes", "compared"),
    [(255, "", True), (1, "membrane\ncell\n", True), (1, "cell\nmembrane\n", False)],
)
def test_other_classes_are_ignored(onebit: Onebit, tmp_path: Path, high: int, classes: str, compared: bool) -> None:
    done = onebit("predict", "membrane-unet", masked(tmp_path, high, classes), "--masks", tmp_path / "masks")
    assert done.status == 0
    assert (("mean IoU" in done.out), "true mask" in done.err) == (compared, not compared)


def test_a_full_disk_keeps_earlier_masks(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.eye(40, dtype=np.uint8) * 255).convert("RGB").save(tmp_path / name)

    def save(pixels: np.ndarray, path: Path, save: Callable[[np.ndarray, Path], None] = masks._save) -> None:
        if path.stem == "b":
            raise OSError(28, "No space left on device", str(path))
        save(pixels, path)

    monkeypatch.setattr(masks, "_save", save)
    done = onebit("predict", "membrane-unet", tmp_path / "a.png", tmp_path / "b.png", "--masks", tmp_path / "m")
    assert (done.status, done.out) == (2, "")
    assert "No space left on device" in done.err
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["a-beside.png", "a.png"]


def test_tiles_in_groups_give_the_same_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder((1, 16, 16))
    b.add(Conv, kernel=(3, 3), padding=(1, 1, 1, 1), **b.signs(3, 9))
    b.affine(3)
    net = b.net()
    image = np.random.default_rng(0).integers(0, 256, (1, 50, 70), np.uint8)
    tiling = Tiling((50, 70), (16, 16), (16, 16))
    expected = tiling.join(run(net, tiling.cut(image[np.newaxis])))[0].argmax(axis=0)
    assert len(np.unique(expected)) == 3
    for most in (1, 3 * 16 * 16 * 3 + 1, masks.MOST_VALUES):
        monkeypatch.setattr(masks, "MOST_VALUES", most)
        np.testing.assert_array_equal(masks.predict_mask(net, image), expected)


def pixel_net(outputs: int, compared: str = "labels", stride: int = 1) -> PackedNet:
    b = Builder((1, 16, 16))
    kernel, edge = (3 if stride == 1 else stride,) * 2, int(stride == 1)
    b.add(Conv, kernel=kernel, stride=(stride, stride), padding=(edge,) * 4, **b.signs(outputs, kernel[0] * kernel[1]))
    b.affine(outputs)
    certificate = load("mnist-mlp").certificate
    assert certificate is not None
    return replace(b.net(), certificate=replace(certificate, compared=compared, layers=()))


@pytest.mark.parametrize(("size", "seen"), [((600, 700), (608, 704)), ((100, 512), (512, 512)), ((514, 8), (528, 512))])
def test_a_net_of_any_size_sees_a_whole_image(size: tuple[int, int], seen: tuple[int, int]) -> None:
    net = load("membrane-unet")
    assert masks.whole(net, size).input.shape[1:] == seen
    assert masks.whole(net, (4000, 600)) is net  # too large: in tiles
    fixed = replace(net, inputs={"input": replace(net.input, sizes="fixed")})
    assert masks.whole(fixed, size) is fixed


def test_the_mask_of_a_whole_image_is_that_of_its_outputs() -> None:
    net = load("membrane-unet")
    image = np.random.default_rng(0).integers(0, 256, (1, 512, 528), np.uint8)
    assert np.array_equal(masks.predict_mask(net, image), run(net, image[None])[0].argmax(axis=0))


def test_a_single_output_is_a_mask_of_two_classes(onebit: Onebit, tmp_path: Path) -> None:
    net = pixel_net(1, "multi-label")
    save(net, tmp_path / "net.1bit")
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16), np.uint8)
    Image.fromarray(image[0]).save(tmp_path / "a.png")
    done = onebit("predict", tmp_path / "net.1bit", tmp_path / "a.png", "--masks", tmp_path / "masks")
    assert done.status == 0, done.err
    expected = run(net, image[np.newaxis])[0, 0] > 0
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / "a.png")), expected * np.uint8(255))
    assert f"0 {100 * (1 - expected.mean()):.2f} %, 1 {100 * expected.mean():.2f} %" in done.out


@pytest.mark.parametrize(("outputs", "compared"), [(3, "multi-label"), (1, "values")])
def test_values_and_multi_labels_have_no_mask(onebit: Onebit, tmp_path: Path, outputs: int, compared: str) -> None:
    save(pixel_net(outputs, compared), tmp_path / "net.1bit")
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "a.png")
    done = onebit("predict", tmp_path / "net.1bit", tmp_path / "a.png")
    assert f"({outputs}×16×16)" in done.out


def test_a_mask_of_another_scale_than_the_image_is_refused(onebit: Onebit, tmp_path: Path) -> None:
    save(replace(pixel_net(2, stride=4), certificate=None), tmp_path / "net.1bit")
    for part in ("image", "label"):
        (tmp_path / part).mkdir()
        for i in range(3):
            Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(tmp_path / part / f"{i}.png")
    told = "4×4 pixels for images of 16×16"
    refused = onebit("predict", tmp_path / "net.1bit", tmp_path / "image" / "0.png", "--masks", tmp_path / "masks")
    assert told in refused.line
    assert not (tmp_path / "masks").exists()
    refused = onebit("evaluate", tmp_path / "net.1bit", "--dataset", "segmentation", "--data", tmp_path)
    assert told in refused.err.splitlines()[-1]
    save(replace(pixel_net(1), certificate=None), tmp_path / "one.1bit")
    refused = onebit("evaluate", tmp_path / "one.1bit", "--dataset", "segmentation", "--data", tmp_path)
    assert refused.status == 2
