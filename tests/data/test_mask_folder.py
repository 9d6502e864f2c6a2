"""Folders of images and masks, and scores of predicted masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from onebit.data import (
    VOID,
    Dataset,
    Split,
    by_pixel,
    confusion_matrix,
    known_labels,
    load_dataset,
    mask_classes,
    pixel_scores,
    read_mask,
)
from onebit.errors import DataError, UsageError
from support.image_folders import blobs, masked_folder, write


def test_images_and_masks_are_split_by_seed_and_the_note_says_so(tmp_path: Path) -> None:
    masked_folder(tmp_path, 30)
    data = load_dataset("segmentation", directory=tmp_path, validation=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 6)
    assert data.input_shape == (1, 32, 32)
    assert data.train.labels.shape == (20, 32, 32)
    assert data.train.labels.dtype == data.train.images.dtype == np.uint8
    assert data.classes == ("0", "255")
    assert data.note == "6 of its 30 images, drawn with seed 0, are the test images"
    other = load_dataset("segmentation", directory=tmp_path, validation=4, split_seed=1)
    assert np.array_equal(other.test.images, data.test.images)
    assert not np.array_equal(other.validation.images, data.validation.images)
    # each image has kept its own mask: number N holds the discs of seed N, and 2 stands before 10
    whole = load_dataset("segmentation", directory=tmp_path, validation=0)
    drawn = np.random.default_rng(0).permutation(30)[:6]
    expected = [blobs(i) for i in range(30) if i not in drawn]
    assert np.array_equal(whole.train.labels, np.array(expected, np.uint8))
    assert np.array_equal(whole.test.labels, np.array([blobs(i) for i in sorted(drawn)], np.uint8))


def test_membrane_is_found_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masked_folder(tmp_path / "membrane", 5)
    monkeypatch.setenv("ONEBIT_DATA", str(tmp_path))
    data = load_dataset("membrane", validation=1)
    assert data.classes == ("membrane", "cell")
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 1, 1)
    monkeypatch.delenv("ONEBIT_DATA")
    with pytest.raises(DataError, match="membrane"):
        load_dataset("membrane")


def test_classes_txt_names_the_classes_and_255_is_void(tmp_path: Path) -> None:
    masked_folder(tmp_path, 4)
    (tmp_path / "classes.txt").write_text("sky\n\ntree\nroad\n", encoding="utf-8-sig")
    for i in range(4):
        mask = np.full((32, 32), i % 3, np.uint8)
        mask[0] = 255
        write(tmp_path / "label" / f"{i}.png", mask)
    data = load_dataset("segmentation", directory=tmp_path, validation=0)
    assert data.classes == ("sky", "tree", "road")
    found = np.concatenate([data.train.labels, data.test.labels])
    assert set(np.unique(found)) == {0, 1, 2, VOID}
    assert (found[:, 0] == VOID).all()


def test_color_images_stay_rgb_and_palette_masks_keep_their_numbers(tmp_path: Path) -> None:
    masked_folder(tmp_path, 3)
    write(tmp_path / "image" / "1.png", np.dstack([blobs(1) * np.uint8(200)] * 3))
    (tmp_path / "classes.txt").write_text("a\nb\n", encoding="utf-8")
    for i in range(3):
        mask = Image.fromarray(blobs(i).astype(np.uint8), "P")
        mask.putpalette([0, 0, 0, 200, 30, 30])
        mask.save(tmp_path / "label" / f"{i}.png")
    data = load_dataset("segmentation", directory=tmp_path, validation=0)
    assert data.input_shape == (3, 32, 32)
    assert set(np.unique(data.train.labels)) == {0, 1}


@pytest.mark.parametrize("named", [True, False])
def test_one_bit_masks_have_the_first_two_classes(tmp_path: Path, named: bool) -> None:
    mask = write(masked_folder(tmp_path, 1) / "label" / "0.png", blobs(0))
    if named:
        (tmp_path / "classes.txt").write_text("ground\ndisc\n", encoding="utf-8")
    with Image.open(mask) as image:
        assert image.mode == "1"
    _, values = mask_classes(tmp_path, None)
    np.testing.assert_array_equal(read_mask(mask, (32, 32), values), blobs(0))


def test_images_with_masks_are_not_resized(tmp_path: Path) -> None:
    """`predict` gives a net for masks images as they are: it would see another scale than it was trained on."""
    with pytest.raises(UsageError, match="input_size"):
        load_dataset("segmentation", directory=masked_folder(tmp_path, 5), input_size=16, validation=1)


def turned(path: Path, orientation: int) -> None:
    """Give the file an EXIF orientation; its pixels stay as they are."""
    with Image.open(path) as image:
        image.load()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [1, 5, 6])
def test_the_exif_orientation_of_each_image_and_mask_is_applied(tmp_path: Path, orientation: int) -> None:
    """Number 0 as JPEG with a tag and an upright mask, 1 with a tag on both, 2 upright with a tag on the mask alone."""
    inside = np.zeros((8, 16), bool)
    inside[:3, :5] = True
    back = {6: 8, 8: 6}.get(orientation, orientation)  # all but quarter turns undo themselves
    with Image.fromarray(inside.astype(np.uint8) * 255) as upright:
        exif = Image.Exif()
        exif[0x0112] = back
        upright.info["exif"] = exif.tobytes()
        stored = np.asarray(ImageOps.exif_transpose(upright))
    shown = inside.astype(np.uint8) * 255
    for i, (image, mask) in enumerate(((stored, shown), (stored, stored), (shown, stored))):
        (tmp_path / "image").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "image" / f"{i}.jpg", quality=100)
        write(tmp_path / "label" / f"{i}.png", mask)
    for path in ("image/0.jpg", "image/1.jpg", "label/1.png", "label/2.png"):
        turned(tmp_path / path, orientation)
    data = load_dataset("segmentation", directory=tmp_path, validation=0)
    for split in (data.train, data.test):
        for pixels, truth in zip(split.images[:, 0], split.labels, strict=True):
            assert np.array_equal(truth, inside)
            assert np.array_equal(pixels > 127, inside)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_masks_without_any_class_are_refused(part: str) -> None:
    some, none = (Split(np.zeros((2, 1, 4, 4), np.uint8), np.full((2, 4, 4), value, np.uint8)) for value in (0, VOID))
    parts = dict.fromkeys(("train", "validation", "test"), some)
    with pytest.raises(DataError, match=f"{part} masks"):
        Dataset("d", **{**parts, part: none}, classes=("a",))
    assert len(Dataset("d", **{**parts, part: none[:0]}, classes=("a",)).test) in (0, 2)


def refused(root: Path, noun: str) -> None:
    with pytest.raises(DataError, match=noun):
        load_dataset("segmentation", directory=root)


def test_wrong_masks_are_refused(tmp_path: Path) -> None:
    mask = masked_folder(tmp_path, 5) / "label" / "3.png"
    write(mask, np.zeros((16, 20), np.uint8))
    refused(tmp_path, "3.png")
    strange = blobs(3).astype(np.uint8) * 255
    strange[0, :2] = 7
    write(mask, strange)
    refused(tmp_path, "7")
    write(mask, np.zeros((32, 32, 3), np.uint8))
    refused(tmp_path, "RGB")
    (tmp_path / "classes.txt").write_text("a\na\n", encoding="utf-8")
    refused(tmp_path, "names")


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        load_dataset("segmentation")
    refused(tmp_path, "image")
    masked_folder(tmp_path, 3)
    lone = write(tmp_path / "image" / "9.png", np.zeros((32, 32), np.uint8))
    refused(tmp_path, "9")
    write(tmp_path / "label" / "9.png", np.zeros((32, 32), np.uint8))
    lone.write_bytes(b"no image")
    refused(tmp_path, "image")


def test_a_split_refuses_masks_of_other_shapes() -> None:
    images = np.zeros((2, 1, 8, 8), np.uint8)
    assert len(Split(images, np.zeros((2, 8, 8), np.uint8))[1:]) == 1
    assert len(Split(images, np.zeros((2, 4, 4), np.uint8))) == 2  # of their center
    for wrong in (np.zeros((3, 8, 8), np.uint8), np.zeros((2, 9, 8), np.uint8)):
        with pytest.raises(DataError, match="masks"):
            Split(images, wrong)
    masks = np.full((2, 8, 8), VOID)
    masks[0, 0, 0] = 2
    assert Dataset.from_arrays((images, masks), (images, masks)).classes == ("0", "1", "2")
    with pytest.raises(DataError, match="train labels"):
        Dataset.from_arrays((images, masks), (images, masks), classes=("a", "b"))


# --------------------------------------------------------------------------------------------------------------- scores
def test_scores_equal_those_of_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix as sklearn_confusion, f1_score, jaccard_score

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 9, 7))
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 3, truth.shape))
    counts = confusion_matrix(truth, predicted, classes=3)
    assert np.array_equal(counts, sklearn_confusion(truth.ravel(), predicted.ravel()))
    scores = pixel_scores(counts)
    both = truth.ravel(), predicted.ravel()
    assert scores["accuracy"] == pytest.approx((truth == predicted).mean())
    assert scores["class_iou"] == pytest.approx(jaccard_score(*both, average=None))
    assert scores["class_dice"] == pytest.approx(f1_score(*both, average=None))
    assert scores["mean_iou"] == pytest.approx(jaccard_score(*both, average="macro"))
    assert scores["dice"] == pytest.approx(f1_score(*both, average="macro"))
    assert scores["confusion"] == counts.tolist()


def test_void_pixels_and_classes_that_do_not_occur_do_not_count() -> None:
    counts = confusion_matrix([0, 0, VOID, 1], [0, 1, 1, 1], classes=3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = pixel_scores(counts)
    assert scores["class_iou"] == [0.5, 0.5, None]  # which JSON has a word for
    assert scores["class_dice"] == pytest.approx([2 / 3, 2 / 3, None])
    assert (scores["mean_iou"], scores["dice"]) == (0.5, pytest.approx(2 / 3))
    assert np.isnan(pixel_scores(np.zeros((2, 2)))["mean_iou"])
    assert [len(known_labels(np.array(labels))) for labels in ([3], [], [[VOID, 0]], [[VOID, VOID]])] == [1, 0, 1, 0]


def test_each_pixel_is_a_sample() -> None:
    logits = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    labels = np.array([[[0, VOID], [1, 2]], [[VOID] * 2] * 2], np.uint8)
    rows, classes = by_pixel(logits, labels)
    assert rows.tolist() == [[0, 4, 8], [2, 6, 10], [3, 7, 11]]
    assert classes.tolist() == [0, 1, 2]
    assert by_pixel(logits, np.array([1, 2]))[0] is logits
