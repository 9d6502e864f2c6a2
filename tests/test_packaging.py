"""What an installed onebit must not lose; the editable installation of the tests cannot show it."""

from __future__ import annotations

import re
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_what_is_left_out_is_named_from_the_root() -> None:
    """The patterns are those of .gitignore: a bare `benchmarks` would leave out src/onebit/benchmarks too."""
    found = re.search(r"^sdist\.exclude = \[(.*)\]$", PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    patterns = re.findall(r'"([^"]*)"', found[1])
    assert "/benchmarks" in patterns
    assert all(pattern.startswith("/") for pattern in patterns)


def test_every_package_and_data_file_lies_in_src() -> None:
    package = PYPROJECT.parent / "src" / "onebit"
    names = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {"py.typed", "recipes/methods.yaml", "data/MNIST_SAMPLE_LICENSE.md", "benchmarks/__init__.py"} <= names
