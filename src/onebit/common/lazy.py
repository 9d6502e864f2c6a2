"""Lazy imports of the names and modules of a package, so that `import onebit` is fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

TYPE_CHECKING = False  # as `typing` has it, whose import takes longer than all of `import onebit`
if TYPE_CHECKING:
    from typing import Any


def lazy(
    package: str, modules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], dict[str, str]]:
    """Return `__getattr__`, `__dir__`, and the public names of a package with the modules that define them.

    Args:
        package: its name.
        modules: module of the package -> its public names, separated by spaces. Modules are found without it.

    Example:
        >>> __getattr__, __dir__, _HOME = lazy(__name__, {"mlp": "MLP"})  # in an __init__.py
    """
    home = {name: f"{package}.{module}" for module, names in (modules or {}).items() for name in names.split()}
    loaded = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name in home:
            loaded[name] = getattr(importlib.import_module(home[name]), name)
            return loaded[name]
        from importlib.util import find_spec

        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    def names() -> list[str]:
        from pkgutil import iter_modules

        return sorted({*loaded, *home, *(module.name for module in iter_modules(loaded["__path__"]))})

    return find, names, home
