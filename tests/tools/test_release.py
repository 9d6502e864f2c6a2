"""What `make release` finds in its archives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools import release

TRACKED = ("LICENSE", ".ci/run", "src/onebit/nets/a.1bit", "src/onebit/native/csrc/a.c", "tests/test_a.py")
INFO = f"{release.NAME}.dist-info"
IN_WHEEL = (
    *("onebit/nets/a.1bit", "onebit/native/kernels.so"),
    *(f"{INFO}/licenses/LICENSE", f"{INFO}/licenses/src/onebit/data/MNIST_SAMPLE_LICENSE.md"),
    *(f"{INFO}/METADATA", f"{INFO}/RECORD", f"{INFO}/WHEEL", f"{INFO}/entry_points.txt"),
)
IN_SDIST = ("PKG-INFO", *(name for name in TRACKED if name != ".ci/run"))


@pytest.mark.parametrize(
    ("in_sdist", "in_wheel", "wrong"),
    [
        (IN_SDIST, IN_WHEEL, []),
        ((*IN_SDIST, "notes.txt"), IN_WHEEL, ["sdist: notes.txt"]),
        (IN_SDIST, (*IN_WHEEL, "onebit/native/csrc/a.c"), ["wheel: onebit/native/csrc/a.c"]),
        (IN_SDIST[1:], IN_WHEEL[1:], ["sdist: PKG-INFO", "wheel: onebit/nets/a.1bit"]),
    ],
    ids=["sound", "stray", "sources", "missing"],
)
def test_archives_hold_the_tracked_files(
    tmp_path: Path, in_sdist: Sequence[str], in_wheel: Sequence[str], wrong: list[str]
) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in in_sdist:
            archive.addfile(tarfile.TarInfo(f"{release.NAME}/{name}"), io.BytesIO())
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as zipped:
        for name in in_wheel:
            zipped.writestr(name, "")
    assert release.wrong_contents(TRACKED, tmp_path / "a.tar.gz", tmp_path / "a.whl") == wrong
