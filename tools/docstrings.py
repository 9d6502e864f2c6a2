"""Docstrings for the pages of the site: an extension of griffe, named in zensical.toml."""

from __future__ import annotations

import re
from typing import Any

import griffe

TOGETHER = re.compile(r"^( +)((?:\w+, )+\w+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """`a, b: text` becomes one entry each, and `Example:` the section that griffe knows by another name.

    A class that is `checked` is a dataclass, whose arguments are its fields.
    """

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        for made_by in cls.decorators:
            if isinstance(made_by.value, griffe.ExprCall) and str(made_by.value.function) == "checked":
                made_by.value.function = griffe.ExprName("dataclasses.dataclass")

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = obj.docstring.value.replace("Example:\n", "Examples:\n")
            obj.docstring.value = TOGETHER.sub(self._apart, text)

    @staticmethod
    def _apart(found: re.Match[str]) -> str:
        indent, names, text = found.groups()
        return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
