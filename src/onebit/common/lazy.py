"""Names and modules of a package that are imported when they are first used: `import onebit` is fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

TYPE_CHECKING = False  # as `typing` has it, whose import takes longer than all of `import onebit`
if TYPE_CHECKING:
    from typing import Any


def lazy(package: str, home: Mapping[str, str] | None = None) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        home: public name -> module of the package that has it. Modules are found without it.

    Example:
        >>> __getattr__, __dir__ = lazy(__name__, {"MLP": "mlp"})  # in an __init__.py
    """
    home = home or {}
    names = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name in home:
            names[name] = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
            return names[name]
        from importlib.util import find_spec

        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return find, lambda: sorted({*names, *home})
