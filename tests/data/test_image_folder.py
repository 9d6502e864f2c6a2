"""Folders of images: which are listed, their splits, decoding, streaming, broken images, and `onebit data`."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.__main__ import main
from onebit.common.augmentation import Augmentation
from onebit.common.pictures import SUFFIXES
from onebit.data import StreamedImages, TrainingImages, image_folder, load_dataset
from onebit.data.decoding import decode_image
from onebit.data.image_folder import read_folder
from onebit.data.listing import Listing, list_folder
from onebit.errors import DataError, UsageError
from support.image_folders import break_image, imagenet_folder, picture, write, write_class

read = functools.partial(read_folder, "folder", workers=0)


def test_images_and_labels_match_the_files(tmp_path: Path) -> None:
    root = imagenet_folder(tmp_path / "pictures")
    calls: list[tuple[str, int, int]] = []
    loaded = read(directory=root, input_size=24, progress=lambda *call: calls.append(call))
    total = sum(path.stat().st_size for path in root.rglob("*.JPEG"))
    assert calls[-1] == ("decoding images of pictures", total, total)
    assert [done for _, done, _ in calls] == sorted({done for _, done, _ in calls})
    assert loaded.classes == ("n01", "n02", "n03")
    assert loaded.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert loaded.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    for split, part, count in ((loaded.train, "train", 5), (loaded.test, "val", 3)):
        for n, label in enumerate(split.labels):
            name = loaded.classes[label]
            path = root / part / name / f"{name}_{n % count}.JPEG"
            np.testing.assert_array_equal(split.images[n].transpose(1, 2, 0), decode_image(str(path), (24, 24)))
    assert (loaded.directory, loaded.validation) == (str(root), None)


def test_streamed_images_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet_folder(tmp_path / "pictures")
    whole = read(directory=root, input_size=16, workers=2)
    monkeypatch.setattr(image_folder, "STREAMED_ABOVE", 0)
    streamed = read(directory=root, input_size=16)
    for one, other in ((whole.train, streamed.train), (whole.test, streamed.test)):
        assert isinstance(other.images, StreamedImages)
        assert other.images.shape == one.images.shape
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_array_equal(other.images[:], one.images)
        assert other.channel_statistics() == one.channel_statistics()
    sent = copy.deepcopy(streamed.test.images)  # as to another process
    np.testing.assert_array_equal(sent[2:4], whole.test.images[2:4])


def test_streamed_images_are_cropped_at_full_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet_folder(tmp_path / "pictures")
    monkeypatch.setattr(image_folder, "STREAMED_ABOVE", 0)
    images = read(directory=root, input_size=20).train.images
    rng = np.random.default_rng(3)
    got = TrainingImages(images, Augmentation(min_area=0.2), channels_last=True).batch(np.arange(4), rng)
    crops = np.random.default_rng(3).uniform([0.2, -np.log(4 / 3), 0, 0], [1, np.log(4 / 3), 1, 1], (4, 4))
    paths = [str(root / "train" / "n01" / f"n01_{i}.JPEG") for i in range(4)]
    for image, path, crop in zip(got, paths, crops, strict=True):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), decode_image(path, (20, 20), crop=crop))


def test_images_of_one_size_keep_their_size(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        write_class(tmp_path / "own" / name, 10, seed=10 * label)
    loaded = read(directory=tmp_path / "own")
    assert len(loaded.train) + len(loaded.test) == 20
    assert loaded.train.images.shape[1:] == (3, 12, 16)
    write(tmp_path / "own" / "dog" / "odd.png", picture(0, 13, 16))
    with pytest.raises(UsageError, match="several sizes"):
        read(directory=tmp_path / "own")


@pytest.mark.parametrize(("streamed", "input_size"), [(False, 16), (True, 16), (False, None)])
def test_broken_images_are_named_or_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool, input_size: int | None
) -> None:
    root = tmp_path / "own"
    for label, name in enumerate(("a", "b")):
        write_class(root / "train" / name, 4, seed=10 * label)
        write_class(root / "val" / name, 2, seed=10 * label + 5)
    whole = read(directory=root, input_size=input_size)
    if streamed:
        monkeypatch.setattr(image_folder, "STREAMED_ABOVE", 0)
    break_image(root / "train" / "b" / "001.png")
    (root / "val" / "a" / "000.png").write_bytes(b"no image")

    with pytest.raises(DataError, match=r"b/001\.png|a/000\.png"):
        _ = read(directory=root, input_size=input_size).train.images[:]
    loaded = read(directory=root, input_size=input_size, skip_broken=True)
    assert "2 (b/001.png, a/000.png)" in loaded.note
    assert loaded.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert loaded.test.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(loaded.train.images[:], whole.train.images[[0, 1, 2, 3, 4, 6, 7]])
    np.testing.assert_array_equal(loaded.test.images[:], whole.test.images[[1, 2, 3]])


def test_a_class_without_images_and_classes_of_one_image_are_refused(tmp_path: Path) -> None:
    write_class(tmp_path / "own" / "a", 5)
    (tmp_path / "own" / "b").mkdir()
    with pytest.raises(DataError, match="'b'"):
        read(directory=tmp_path / "own")
    for i in range(5):
        (tmp_path / "own" / "b" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="'b'"):
        read(directory=tmp_path / "own", skip_broken=True)
    write_class(tmp_path / "one" / "a", 1)
    with pytest.raises(DataError, match="test"):
        read(directory=tmp_path / "one")


def load(name: str, **options: Any) -> Any:
    return load_dataset(name, workers=0, **options)


def test_own_validation_images_and_held_out_ones(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        for label, name in enumerate(("a", "b")):
            write_class(tmp_path / part / name, 10 if part == "train" else 2, seed=100 * label)
    data = load("folder", directory=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 4)
    assert (data.classes, data.input_shape) == (("a", "b"), (3, 12, 16))
    assert [len(load("folder", directory=tmp_path, validation=n).train) for n in (0, 3)] == [20, 17]
    (tmp_path / "valid").rename(tmp_path / "other")
    data = load("folder", directory=tmp_path, input_size=9)
    assert (len(data.train), len(data.validation), data.input_shape) == (18, 2, (3, 9, 9))  # a tenth


def test_imagenet_is_found_by_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet_folder(tmp_path / "sets" / "imagenet", train=4, val=1)
    for directory in (root, root.parent):
        data = load("imagenet", directory=directory)
        assert (data.input_shape, data.classes, len(data.test)) == ((3, 224, 224), ("n01", "n02", "n03"), 3)
    monkeypatch.setenv("ONEBIT_DATA", str(root.parent))
    assert load("imagenet", input_size=32).input_shape == (3, 32, 32)
    monkeypatch.delenv("ONEBIT_DATA")
    with pytest.raises(DataError, match="imagenet"):
        load("imagenet", directory=tmp_path)
    for directory in (None, tmp_path / "typo"):
        with pytest.raises(DataError, match=r"\'folder\'|typo"):
            load("folder", directory=directory)


# -------------------------------------------------------------------------------------------------------------- listing
def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(listing: Listing, part: str) -> list[tuple[str, int]]:
    return [(Path(file.name).as_posix(), file.label) for file in getattr(listing, part)]


def test_train_and_val_as_in_imagenet(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(
            "train/b/2.JPEG",
            "train/b/1.JPEG",
            "train/a/x.JPEG",
            "train/c/deep/er/1.png",
            "val/b/v.JPEG",
            "val/c/v.JPEG",
        ),
        *("train/a/.hidden.png", "train/a/notes.txt", "train/.cache/x.png", "train/readme.md", "test/0001.JPEG"),
    )
    listing = list_folder(tmp_path)
    assert listing.classes == ("a", "b", "c")
    assert names(listing, "train") == [
        ("train/a/x.JPEG", 0),
        ("train/b/1.JPEG", 1),
        ("train/b/2.JPEG", 1),
        ("train/c/deep/er/1.png", 2),
    ]
    assert names(listing, "test") == [("val/b/v.JPEG", 1), ("val/c/v.JPEG", 2)]  # labels are those of train
    assert listing.validation == ()
    # test/ has no classes
    assert listing.note == "tested on the images of val/; files left out, no images: 1 (such as notes.txt)"


def test_a_folder_takes_every_kind_of_image(tmp_path: Path) -> None:
    taken = [f"{name}/{number}{suffix}" for number, suffix in enumerate(SUFFIXES) for name in ("a", "b")]
    touch(tmp_path, *taken, "a/x.JFIF", "a/x.txt", "b/deep/y.txt", "b/noimage", "lost.png", ".hidden", "b/.hidden")
    listing = list_folder(tmp_path)
    assert len(listing.files) == len(taken) + 1


@pytest.mark.parametrize("name", ["val", "valid"])
def test_with_a_test_folder_the_others_are_validation_images(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", f"{name}/a/1.png", "test/a/1.png", "test/b/1.png")
    listing = list_folder(tmp_path)
    assert names(listing, "validation") == [(f"{name}/a/1.png", 0)]
    assert names(listing, "test") == [("test/a/1.png", 0), ("test/b/1.png", 1)]
    assert listing.note == ""


@pytest.mark.parametrize("top", ["", "train/"])
def test_without_a_test_folder_a_share_of_each_class_is_the_test_split(tmp_path: Path, top: str) -> None:
    cats, dogs = ([f"{top}{kind}/{i}.jpg" for i in range(count)] for kind, count in (("cat", 400), ("dog", 2)))
    listing = list_folder(touch(tmp_path, *cats, *dogs, f"{top}eel/1.jpg"))
    counts = [len([1 for f in listing.test if f.label == label]) for label in range(3)]
    assert 60 < counts[0] < 100
    assert counts[1:] == [1, 0]
    assert [len([1 for f in listing.train if f.label == label]) for label in range(3)] == [400 - counts[0], 1, 1]
    assert not set(listing.train) & set(listing.test)
    assert listing == list_folder(tmp_path)
    assert "about 20 % of the images of each class, drawn by their paths, are the test images" in listing.note


def test_adding_images_never_moves_training_images_to_the_test_set(tmp_path: Path) -> None:
    def files(first: int, end: int) -> list[str]:
        return [f"{kind}/{i}.png" for kind in ("a", "b") for i in range(first, end)]

    before, after = list_folder(touch(tmp_path, *files(0, 40))), list_folder(touch(tmp_path, *files(40, 200)))
    assert set(before.train) < set(after.train)
    assert set(before.test) < set(after.test)


def test_a_class_named_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/2.png", "plane/1.png", "plane/2.png")
    assert list_folder(tmp_path).classes == ("plane", "train")


@pytest.mark.parametrize(
    "files",
    [
        ("1.png", "2.png"),
        ("train/a/1.png", "train/b/1.png", "val/c/1.png"),
        ("Train/a/1.png", "Test/a/1.png"),
        ("train/1.png", "test/1.png"),
        ("a/1.png", "b/1.png", "test/a/1.png", "test/b/1.png"),
        ("Training/a/1.png", "Testing/a/1.png"),
    ],
)
def test_folders_with_another_layout_are_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    with pytest.raises(DataError):
        list_folder(touch(tmp_path, *files))


def test_a_missing_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_folder(tmp_path / "moved")


def test_a_copy_has_the_same_digest_and_other_folders_do_not(tmp_path: Path) -> None:
    files = ("train/a/1.png", "train/b/1.png", "test/a/1.png")

    def digest(name: str, *files: str) -> str:
        return list_folder(touch(tmp_path / name, *files)).digest

    same = digest("one", *files)
    assert digest("two", *files) == same
    (tmp_path / "two" / "train/a/1.png").write_bytes(b"12")
    others = [digest("two"), digest("three", *files, "train/b/2.png"), digest("four", "train/a/2.png", *files[1:])]
    assert len({same, *others}) == 4


# ---------------------------------------------------------------------------------------------------------- onebit data
def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["data", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_a_folder_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = imagenet_folder(tmp_path / "pictures")
    options = ("folder", "--data", root, "--input-size", 16, "--workers", 0)
    status, out, _ = run(capsys, *options, "--json")
    assert status == 0
    answered = json.loads(out)
    assert answered["dir"] == str(root)
    assert answered["note"] == "tested on the images of val/"
    assert all(Path(file).is_file() for file in answered["files"])
    status, out, _ = run(capsys, *options)
    assert out.splitlines()[0] == f"folder: complete in {root}"
    assert out.splitlines()[-1] == "tested on the images of val/"


def test_broken_images_are_refused_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = imagenet_folder(tmp_path / "pictures")
    broken = break_image(root / "train" / "n02" / "n02_3.JPEG")
    options = ("folder", "--data", root, "-j", 0, "--input-size", 16)
    status, out, err = run(capsys, *options)
    assert (status, out) == (2, "")
    assert str(broken) in err.splitlines()[-1]
    status, out, _ = run(capsys, *options, "--skip-broken")
    assert status == 0
    assert "n02_3.JPEG" in out
