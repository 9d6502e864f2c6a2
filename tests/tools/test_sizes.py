"""The sizes that `make lint` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import sizes


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
