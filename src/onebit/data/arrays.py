"""Arrays of the user in a numpy file, FILE.npz, as a data set."""

from __future__ import annotations

import numpy as np

from onebit.common.files import open_regular
from onebit.data.fetch import own_path
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Source, arrays_digest, as_split, numbered_classes
from onebit.errors import DataError, first_line

NEEDED = ("train_images", "train_labels", "test_images", "test_labels")
VALIDATION = ("validation_images", "validation_labels")
CLASSES = "classes"


def read_arrays(*, directory: Source = None, progress: Progress | None = None) -> LoadedFiles:
    """Read the file `directory`, which `numpy.savez` wrote; nothing in it is unpickled.

    It holds `train_images`, `train_labels`, `test_images` and `test_labels` as `Dataset.from_arrays` takes them, and
    optionally `validation_images`, `validation_labels`, and `classes`, the names of the labels.
    """
    path = own_path("arrays", directory)
    try:
        # opened here: numpy would leave a damaged file open
        with open_regular(path) as file, np.load(file, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except Exception as error:  # numpy raises almost anything for a damaged file
        raise DataError(f"{path}: expected arrays of numbers as numpy.savez writes them: {first_line(error)}") from None
    needed = NEEDED + (VALIDATION if {*VALIDATION} & arrays.keys() else ())
    if arrays.keys() - {CLASSES} != {*needed}:
        raise DataError(f"{path}: got {', '.join(arrays)}, expected {', '.join(needed)}")
    train, test, *held_out = (as_split(*(arrays[key] for key in needed[i : i + 2])) for i in range(0, len(needed), 2))
    if not len(test):
        raise DataError(f"{path}: there are no test images")
    classes = tuple(arrays[CLASSES].astype(str).tolist()) if CLASSES in arrays else numbered_classes(train.labels)
    digest = arrays_digest(*(part.images for part in (train, test, *held_out)))
    name = str(path.resolve())
    return LoadedFiles(train, test, name, (name,), "", classes, held_out[0] if held_out else None, digest)


ARRAYS = DatasetEntry(
    name="arrays",
    title="a file of your own arrays (--data FILE.npz), as numpy.savez writes it",
    read=read_arrays,
)
