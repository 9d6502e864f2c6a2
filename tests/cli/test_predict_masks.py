"""Where `onebit predict` writes the masks of images, and what it never replaces."""

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


def pixel_net(outputs: int, compared: str = "labels", stride: int = 1) -> PackedNet:
    b = Builder((1, 16, 16))
    kernel, edge = (3 if stride == 1 else stride,) * 2, int(stride == 1)
    b.add(Conv, kernel=kernel, stride=(stride, stride), padding=(edge,) * 4, **b.signs(outputs, kernel[0] * kernel[1]))
    b.affine(outputs)
    certificate = load("mnist-mlp").certificate
    assert certificate is not None
    classes = ("membrane", "cell") if outputs == 2 else None
    return replace(b.net(), certificate=replace(certificate, compared=compared, layers=()), classes=classes)


@pytest.fixture
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of two classes."""
    path = tmp_path_factory.mktemp("net") / "net.1bit"
    save(pixel_net(2), path)
    return path


def picture(path: Path | str, side: int = 40, high: int = 255) -> Path:
    """A diagonal of this value."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(side, dtype=np.uint8) * high).save(path)
    return Path(path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


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
    onebit: Onebit, net: Path, here: Path, images: list[str], masks: str, named: str
) -> None:
    for name in ("3.png", "4.jpg", "5.jpg", "3-beside.png", "5-beside.png"):
        picture(f"image/{name}", 9)
    picture("label/3.png", 9)
    picture("drawn/4.png", 9)
    before = files(here)
    refused = onebit("predict", net, *images, "--masks", masks)
    assert (refused.status, named in refused.line) == (2, True)
    assert files(here) == before


def test_masks_of_an_earlier_call_are_replaced(onebit: Onebit, net: Path, tmp_path: Path) -> None:
    made = []
    for flags in ((), ("--invert",)):
        done = onebit("predict", net, picture(tmp_path / "a\n.png"), "--masks", tmp_path / "m", *flags)
        assert (done.status, r"a\n.png: " in done.out) == (0, True)
        made.append(files(tmp_path / "m"))
    assert made[0].keys() == made[1].keys() == {"a\n.png", "a\n-beside.png"}
    assert made[0]["a\n.png"] != made[1]["a\n.png"]


def test_a_mask_is_not_written_without_its_picture(onebit: Onebit, net: Path, tmp_path: Path) -> None:
    long = picture(tmp_path / ("x" * 250 + ".png"))  # the name of its picture is too long
    assert onebit("predict", net, long, "--masks", tmp_path / "m").status == 2
    assert not list((tmp_path / "m").iterdir())
    (tmp_path / "a.png").write_bytes(b"no image")  # nothing to write: no folder
    assert onebit("predict", net, tmp_path / "a.png", "--masks", tmp_path / "none").status == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("mask", "classes", "compared", "note"),
    [
        (255, "", True, False),
        (1, "membrane\ncell\n", True, False),
        (1, "cell\nmembrane\n", False, True),
        ("3.png", "", False, True),  # no image
        ("3.txt", "", False, False),
    ],
)
def test_a_true_mask_that_does_not_fit_stops_nothing(
    onebit: Onebit, net: Path, tmp_path: Path, mask: int | str, classes: str, compared: bool, note: bool
) -> None:
    picture(tmp_path / "image" / "3.png")
    if isinstance(mask, int):
        picture(tmp_path / "label" / "3.png", high=mask)
    else:
        (tmp_path / "label").mkdir()
        (tmp_path / "label" / mask).write_bytes(b"no mask")
    if classes:
        (tmp_path / "classes.txt").write_text(classes)
    done = onebit("predict", net, tmp_path / "image", "--masks", tmp_path / "masks")
    assert (done.status, len(done.out.splitlines())) == (0, 1)
    assert (("mean IoU" in done.out), "true mask" in done.err) == (compared, note)


def test_a_full_disk_keeps_earlier_masks(
    onebit: Onebit, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(pixels: np.ndarray, path: Path, save: Callable[[np.ndarray, Path], None] = masks._save) -> None:
        if path.stem == "b":
            raise OSError(28, "No space left on device", str(path))
        save(pixels, path)

    monkeypatch.setattr(masks, "_save", save)
    images = [picture(tmp_path / name) for name in ("a.png", "b.png")]
    done = onebit("predict", net, *images, "--masks", tmp_path / "m")
    assert (done.status, done.out) == (2, "")
    assert "No space left on device" in done.err
    assert files(tmp_path / "m").keys() == {"a-beside.png", "a.png"}


# -------------------------------------------------------------------------------------------- tiles and whole images
def test_tiles_in_groups_give_the_same_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    net, image = pixel_net(3), np.random.default_rng(0).integers(0, 256, (1, 50, 70), np.uint8)
    tiling = Tiling((50, 70), (16, 16), (16, 16))
    expected = tiling.join(run(net, tiling.cut(image[np.newaxis])))[0].argmax(axis=0)
    assert len(np.unique(expected)) == 3
    for most in (1, 3 * 16 * 16 * 3 + 1, masks.MAX_VALUES):
        monkeypatch.setattr(masks, "MAX_VALUES", most)
        np.testing.assert_array_equal(masks.predict_mask(net, image), expected)


def test_a_net_of_any_size_sees_a_whole_image() -> None:
    net = load("membrane-unet")
    fixed = replace(net, inputs={"input": replace(net.input, sizes="fixed")})
    for size, seen in (((600, 700), (608, 704)), ((100, 512), (512, 512)), ((514, 8), (528, 512))):
        assert masks.whole(net, size).input.shape[1:] == seen
        assert masks.whole(fixed, size) is fixed
    assert masks.whole(net, (4000, 600)) is net  # too large: in tiles
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
    for outputs, compared in ((3, "multi-label"), (1, "values")):  # which have no mask
        save(pixel_net(outputs, compared), tmp_path / "net.1bit")
        assert f"({outputs}×16×16)" in onebit("predict", tmp_path / "net.1bit", tmp_path / "a.png").out


def test_a_mask_of_another_scale_than_the_image_is_refused(onebit: Onebit, tmp_path: Path) -> None:
    for part in ("image", "label"):
        for i in range(3):
            picture(tmp_path / part / f"{i}.png", 16)
    for net, noun in ((pixel_net(2, stride=4), "4×4"), (pixel_net(1), "")):
        save(replace(net, certificate=None), tmp_path / "net.1bit")
        refused = onebit("evaluate", tmp_path / "net.1bit", "--dataset", "segmentation", "--data", tmp_path)
        assert (refused.status, noun in refused.line) == (2, True)
        if noun:
            refused = onebit("predict", tmp_path / "net.1bit", tmp_path / "image", "--masks", tmp_path / "masks")
            assert (refused.status, noun in refused.line) == (2, True)
            assert not (tmp_path / "masks").exists()
