"""Docstrings for the pages of the site: an extension of griffe, named in zensical.toml."""

from __future__ import annotations

import re
from typing import Any

import griffe

TOGETHER = re.compile(r"^( +)((?:\w+, )+\w+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """`a, b: text` becomes one entry each, and `Example:` the section that griffe knows by another name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = obj.docstring.value.replace("Example:\n", "Examples:\n")
            obj.docstring.value = TOGETHER.sub(self._apart, text)

    @staticmethod
    def _apart(found: re.Match[str]) -> str:
        indent, names, text = found.groups()
        return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
