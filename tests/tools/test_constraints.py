"""Each line of constraints.txt says what brings the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import constraints

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the lines are for Python 3.11 and newer")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need a few packages more or less")
def test_every_line_is_brought_by_something_and_no_package_lacks_one() -> None:
    assert {package: by for package, (_, by) in constraints.lines().items()} == constraints.needed()


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
