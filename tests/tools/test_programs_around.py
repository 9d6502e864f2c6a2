"""The programs around the package: what they find in archives, in constraints.txt and in the sources."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools import constraints, release, sizes

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


# ---------------------------------------------------------------------------------------------------------------- sizes
def test_comments_and_layout_are_lines_but_no_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("# why\nif True:\n\n    x = (1,\n         2)\n")
    assert sizes.count(tmp_path) == (5, 10)


def test_circles_are_rooms_that_reach_themselves() -> None:
    assert sizes.circles({("a", "b"), ("b", "c")}) == 0
    assert sizes.circles({("a", "b"), ("b", "c"), ("c", "b")}) == 2


def test_the_slowest_tests_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, path in (("ROOT", tmp_path), ("PACKAGE", tmp_path), ("TESTS_XML", tmp_path / "tests.xml")):
        monkeypatch.setattr(sizes, name, path)
    cases = "".join(f'<testcase classname="t" name="n{i}" time="{i}"/>' for i in range(12))
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    sizes.main()
    shown = [line for line in capsys.readouterr().out.splitlines() if "::" in line]
    assert [line.rpartition("::")[2] for line in shown] == [f"n{i}" for i in range(11, 1, -1)]


# ---------------------------------------------------------------------------------------------------------- constraints
NEW = pytest.mark.skipif(sys.version_info < (3, 11), reason="the lines are for Python 3.11 and newer")


@NEW
@pytest.mark.skipif(sys.platform != "linux", reason="other systems need a few packages more or less")
def test_every_line_is_brought_by_something_and_no_package_lacks_one() -> None:
    assert {package: by for package, (_, by) in constraints.lines().items()} == constraints.needed()


@NEW
def test_lines_that_nothing_brings_are_not_needed_and_uninstalled_packages_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraints, "FILE", tmp_path / "constraints.txt")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=2"]\n[project.optional-dependencies]\n'
        'dev = ["onebit[train]", "not-here"]\n'
        "train = ['pytest; python_version > \"3\"', 'torch; python_version < \"3\"']"
    )
    (tmp_path / "constraints.txt").write_text(
        "# of this test\nnot-here==1.5; python_version > '3'  # onebit[dev]\n"
        "its-own==2  # not-here\nlost==3  # nothing\n"
    )
    constraints.main()
    found = constraints.lines()
    assert found["not-here"] == ("1.5", "onebit[dev]")
    assert found["its-own"] == ("2", "not-here")
    assert found["pytest"] == (pytest.__version__, "onebit[train]")
    assert found["pluggy"][1] == "pytest"
    assert found["numpy"][1] == "onebit"
    assert not {"lost", "torch", "onebit"} & found.keys()
