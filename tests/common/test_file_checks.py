"""Files that are read as values, and paths that are checked before anything is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebit.common.files import read_json, refuse_unwritable
from onebit.errors import OnebitError


def test_a_json_file_is_read_or_refused_as_a_value(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, null]}')
    assert read_json(path, largest=100) == {"a": [1, None]}
    with pytest.raises(OSError, match="expected at most 3"):
        read_json(path, largest=3)
    for text in ("{", "[" * 100_000, "\ud800".encode("utf-16", "surrogatepass").decode("latin-1")):
        path.write_text(text)
        with pytest.raises(ValueError):  # noqa: PT011
            read_json(path, largest=10**6)


def test_a_path_that_cannot_be_written_is_refused_without_a_trace(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new")
    (tmp_path / "old").write_text("old")
    refuse_unwritable(tmp_path / "old")
    for path, why in ((tmp_path, "not a regular file"), (tmp_path / "no" / "a", "does not exist")):
        with pytest.raises(OnebitError, match=why):
            refuse_unwritable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "link").symlink_to("missing")
    refuse_unwritable(tmp_path / "link")
    assert (tmp_path / "old").read_text() == "old"
