"""Modules and names of earlier versions: the old ones still work, with a DeprecationWarning."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # see `onebit.common.lazy`
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, TypeVar

    _Function = TypeVar("_Function", bound=Callable[..., Any])

MOVED = {
    "onebit.agreement": "onebit.verification.agreement",
    "onebit.arguments": "onebit.common.arguments",
    "onebit.bits": "onebit.packed.bits",
    "onebit.calibration": "onebit.evaluation.calibration",
    "onebit.export.torch_state": "onebit.runs.plain_state",
    "onebit.files": "onebit.common.files",
    "onebit.grid": "onebit.packed.grid",
    "onebit.inspection": "onebit.verification.inspection",
    "onebit.losses": "onebit.evaluation.losses",
    "onebit.memory": "onebit.common.memory",
    "onebit.metrics": "onebit.evaluation",
    "onebit.model_inputs": "onebit.evaluation.model_inputs",
    **dict.fromkeys((f"onebit.models.{net}" for net in ("alexnet", "lrnet", "small", "vgg")), "onebit.models.chains"),
    "onebit.packed_module": "onebit.runtime.torch_module",
    "onebit.pictures": "onebit.common.pictures",
    "onebit.plain": "onebit.runs.plain_state",
    "onebit.precision": "onebit.evaluation.precision",
    "onebit.progress": "onebit.common.progress",
    "onebit.proof": "onebit.verification.proof",
    "onebit.recipe.json_config": "onebit.recipe.translations.json_config",
    "onebit.scores": "onebit.evaluation.scores",
    "onebit.tables": "onebit.common.tables",
    "onebit.tally": "onebit.verification.tally",
    "onebit.train.build": "onebit.runs.model",
    "onebit.train.cells": "onebit.runs.task_grid",
    "onebit.train.checks": "onebit.runs.resolve",
    "onebit.train.continual": "onebit.runs.continual",
    "onebit.train.health": "onebit.evaluation.health",
    "onebit.train.optimizers": "onebit.runs.optimizer",
    "onebit.train.run": "onebit.runs.run",
    "onebit.train.run_data": "onebit.runs.run_data",
    "onebit.train.trackers": "onebit.runs.trackers",
}
"""Old module -> the module that has its names now."""


class _MovedModules:
    """Finds the old modules and loads each as one whose names are looked up in the new one."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]  # has what a loader needs

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        home = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {home}", DeprecationWarning, stacklevel=2)
        module.__getattr__ = lambda name: getattr(importlib.import_module(home), name)  # type: ignore[method-assign]


def find_moved_modules() -> None:
    """Let the old names import. This finder comes last, so that other imports cost nothing."""
    sys.meta_path.append(_MovedModules())


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose old names still work, with a DeprecationWarning.

    Args:
        names: old name -> the name in the same module today.

    Example:
        >>> __getattr__ = renamed(__name__, {"colour": "color"})
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now called {names[name]}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return look_up


def renamed_argument(old: str, new: str) -> Callable[[_Function], _Function]:
    """Decorator of a function that still takes an argument under its old name, with a DeprecationWarning.

    Example:
        >>> @renamed_argument("colour", "color")
        ... def paint(color):
        ...     return color
    """

    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs:
                warnings.warn(f"the argument {old} is now called {new}", DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate
