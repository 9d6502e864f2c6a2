"""The images in a folder, and their training and test splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebit.common.pictures import SUFFIXES
from onebit.data.listing import Listing, list_folder
from onebit.errors import DataError


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
