"""The code of a model of the user's own: named, imported, called.

Importing a file runs it. So only code runs that the user has named in this process: opening a run folder of unknown
origin runs nothing that its recipe names.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from onebit.common.fields import argument, read
from onebit.errors import UsageError
from onebit.recipe.own_names import OwnName, split_own


@dataclass(frozen=True)
class OwnCode:
    """A class or function that builds a model, and how it was named."""

    name: str
    build: Callable[..., Any]

    def arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Arguments as the types that the signature says; text that came from a flag becomes a number, a list …"""
        known, typed = self.parameters(), {}
        for name, value in given.items():
            hint, default = known.get(name, (None, inspect.Parameter.empty))
            if hint is None and isinstance(default, (bool, int, float, str, tuple, list)):
                hint = int | float if type(default) is int else type(default)
            typed[name] = argument(value) if hint is None else read(value, hint, name=f"model.{name}")
        return typed

    def parameters(self) -> dict[str, tuple[Any, Any]]:
        """Name -> (type or None, default or `inspect.Parameter.empty`) of what can be given by name."""
        source = self.build.__init__ if isinstance(self.build, type) else self.build  # type: ignore[misc]
        try:
            hints = typing.get_type_hints(source)
        except Exception:  # names that only a type checker knows
            hints = {}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        signature = inspect.signature(self.build).parameters.items()
        return {name: (hints.get(name), found.default) for name, found in signature if found.kind in named}

    def __call__(self, arguments: Mapping[str, object]) -> nn.Module:
        """The module that it builds; what it prints goes to stderr."""
        with contextlib.redirect_stdout(sys.stderr):
            model: nn.Module = self.build(**self.arguments(arguments))
            return model


_NAMED: dict[str, OwnCode] = {}
"""What the user has named in this process."""


def load_code(name: str) -> OwnCode:
    """Import what builds a model that the user names.

    Args:
        name: `path/to/file.py:Class`, relative to the current folder, or `package.module:Class`.
    """
    parts = split_own(name)
    with contextlib.redirect_stdout(sys.stderr):
        found: Any = _imported(parts)
    for attribute in parts.attribute.split("."):
        found = getattr(found, attribute)
    _NAMED[name] = OwnCode(name, found)
    return _NAMED[name]


def named_code(name: str) -> OwnCode:
    """The code that the user has named before; UsageError for any other, which a file names."""
    if name not in _NAMED:
        raise UsageError(f"the model is code of your own, which is run only if you name it: --model {name}")
    return _NAMED[name]


def _imported(parts: OwnName) -> ModuleType:
    """Run the code; its folder, or the current one, is where it finds its own imports, as with `python file.py`."""
    file = Path(parts.where).resolve() if parts.is_file else None
    where = str(file.parent if file else Path.cwd())
    if where not in sys.path:
        sys.path.insert(0, where)
    if file is None:
        return importlib.import_module(parts.where)
    # not the bare name: a file may be called torch.py
    module = ModuleType(f"own_model_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(compile(file.read_bytes(), module.__file__, "exec", dont_inherit=True), module.__dict__)
    return module
