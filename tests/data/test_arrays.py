"""A file of arrays as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.data import Dataset, load_dataset, make_toy
from onebit.errors import DataError, UnknownNameError


def arrays(**changes: Any) -> dict[str, Any]:
    """The arrays of a file; None leaves a key out."""
    train, test = make_toy(40, 20)
    held = {"train_images": train.images, "train_labels": train.labels}
    held |= {"test_images": test.images, "test_labels": test.labels, **changes}
    return {key: value for key, value in held.items() if value is not None}


def write(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


def test_the_arrays_of_a_file_become_a_data_set(tmp_path: Path) -> None:
    held = arrays()
    path = write(tmp_path / "own.npz")
    found = load_dataset("arrays", directory=path, validation=10, split_seed=3)
    pairs = [(held[f"{part}_images"], held[f"{part}_labels"]) for part in ("train", "test")]
    expected = Dataset.from_arrays(*pairs, validation=10, split_seed=3)
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert found.classes == expected.classes == ("0", "1", "2", "3")
    assert found.digest == expected.digest
    assert (found.name, found.directory) == ("arrays", str(path.resolve()))
    assert load_dataset("mine", directory=path).name == "mine"
    with pytest.raises(UnknownNameError):
        load_dataset("mine", directory=tmp_path)


def test_own_validation_images_and_names(tmp_path: Path) -> None:
    own = make_toy(7, 3)[0]
    names = np.array(["cat", "dog", "boat", "car"])
    held = {"validation_images": own.images, "validation_labels": own.labels.astype(np.uint8), "classes": names}
    path = write(tmp_path / "own.npz", **held)
    for validation in (None, 7):  # a run stores the number
        data = load_dataset("arrays", directory=path, validation=validation, input_size=4)
        np.testing.assert_array_equal(data.validation.labels, own.labels)
        assert [part.images.shape[1:] for part in (data.train, data.validation, data.test)] == 3 * [(1, 4, 4)]
        assert data.classes == ("cat", "dog", "boat", "car")
    assert len(load_dataset("arrays", directory=path, validation=0).validation) == 0
    changed = write(tmp_path / "changed.npz", **{**held, "validation_images": 255 - own.images})
    assert data.files_digest != load_dataset("arrays", directory=changed, input_size=4).files_digest
    other = load_dataset("mine", directory=path, validation=5)
    assert (len(other.train), len(other.validation)) == (35, 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"test_labels": None},
        {"validation_images": np.zeros((2, 1, 8, 8), np.uint8)},
        {"x": np.zeros(3)},
        {"train_images": np.zeros((40, 1, 8, 8))},
        {"test_labels": np.zeros(20)},
        {"test_labels": np.zeros(19, int)},
        {"test_labels": np.full(20, 4)},
        {"train_labels": np.array([None] * 40)},
        {"classes": ["a", "b", "c", "a"]},
        {"test_images": np.zeros((0, 1, 8, 8), np.uint8), "test_labels": np.zeros(0, int)},
        {"train_labels": np.full(40, 2**40)},
    ],
    ids=str,
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write(tmp_path / "own.npz", **changes)
    with pytest.raises(DataError):
        load_dataset("arrays", directory=path)


@pytest.mark.parametrize("name", ["cut.npz", "empty.npz", "damaged.npz", "one.npz", "none.npz"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / "own.npz").read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    content = {
        "cut.npz": whole[:-900],
        "empty.npz": b"",
        "damaged.npz": whole[:200] + bytes(300) + whole[500:],
        "one.npz": (tmp_path / "one.npy").read_bytes(),
    }
    if name in content:
        (tmp_path / name).write_bytes(content[name])
    with pytest.raises(DataError, match=name):
        load_dataset("arrays", directory=tmp_path / name)
    with pytest.raises(DataError, match="--data"):
        load_dataset("arrays")
