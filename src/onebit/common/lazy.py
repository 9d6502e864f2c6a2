"""Modules of a package that are imported when they are first used: `import onebit` reaches all of them and is fast."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


def lazy_modules(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Example:
        >>> __getattr__ = lazy_modules(__name__)  # in an __init__.py
    """

    def import_module(name: str) -> Any:
        if name.startswith("_") or importlib.util.find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return import_module
