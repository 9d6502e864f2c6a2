"""The scripts of a page: the parts that a net needs, without comments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources

_PARTS = re.compile(r"\n\n(?=\S)")
_DEFINED = re.compile(r"^(?:async )?(?:function|const|let) (\w+)", re.M)
_OPERATIONS = re.compile(r"\bOPS\.(\w+) =")


def asset(name: str) -> str:
    """The text of a file in this folder."""
    return (resources.files("onebit.export.html") / name).read_text(encoding="utf-8")


def written_operations(files: Iterable[str]) -> frozenset[str]:
    """The operations that files of the engine define."""
    return frozenset(name for file in files for name in _OPERATIONS.findall(asset(f"engine/{file}.js")))


def engine_script(files: Iterable[str], operations: Iterable[str]) -> str:
    """The engine for some operations, without the parts of files whose definitions are unused.

    A part ends with an empty line before a line that is not indented.
    """
    wanted = set(operations)
    parts = [part for name in files for part in _PARTS.split(asset(f"engine/{name}.js"))]
    parts = [part for part in parts if not (made := _OPERATIONS.findall(part)) or wanted & set(made)]
    defined = {part: set(_DEFINED.findall(part)) for part in parts}
    used, kept = {"OPS", "openNet"}, set[str]()
    while new := {part for part, names in defined.items() if not names or names & used} - kept:
        kept |= new
        used.update(*(re.findall(r"\w+", compact_script(part)) for part in new))
    return compact_script("\n".join(part for part in parts if part in kept))


def compact_script(text: str) -> str:
    """Remove indentation, empty lines, and comments, which are on separate lines or follow two spaces."""
    lines = (line.lstrip().partition("  // ")[0] for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))
