"""Settings of optimizer, schedule and loss as plain values, kept in a checkpoint and compared on resume."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import torch

PLAIN = (bool, int, float, str, type(None))
MOST_VALUES = 1_000
"""Of a list; a longer one is no setting."""
Settings = dict[str, Any]
"""Name of a setting -> its value. Names have dots: `optimizer.0.lr` is the rate of the first parameter group."""


def training_settings(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler | None, loss: Any
) -> Settings:
    """The settings that a training begins with."""
    groups = optimizer.param_groups
    return settings_of_states(groups, None if schedule is None else schedule.state_dict()) | _flat(
        {
            "loss": _of_callable(loss),
            "lr_lambdas": [_of_callable(factor) for factor in getattr(schedule, "lr_lambdas", ())],
        }
    )


def settings_of_states(groups: Any, schedule: Any) -> Settings:
    """The settings in the parameter groups of an optimizer and in the state_dict of a schedule, as they are now.

    A rate that a schedule moves is left out; `initial_lr`, where it began, is not.
    """
    moved = ("params", "lr")
    kept = [
        {key: value for key, value in group.items() if key not in (moved if "initial_lr" in group else moved[:1])}
        for group in groups
    ]
    found = _flat({"optimizer": kept, "schedule": schedule})
    return {name: value for name, value in found.items() if not name.endswith("._last_lr")}


def first_change(began: Settings, last: Settings, now: Settings) -> tuple[str, Any, Any] | None:
    """(name, value then, value now) of a setting that another value was given to; None where none was.

    Args:
        began: what the training began with; last: as its checkpoint has it; now: what it is to go on with.
    """
    for name, value in began.items():
        # what training itself moves, as a count of steps, is no setting
        if name in now and now[name] != value and last.get(name, value) == value:
            words = [word for word in name.split(".")[1:] if not word.isdecimal()]
            return ".".join(words) or name, value, now[name]
    return None


def _of_callable(function: Any) -> Any:
    """What a loss or a factor was made with: arguments, attributes, and the plain values that its code refers to."""
    if isinstance(function, functools.partial):
        return {"arguments": list(function.args), **function.keywords, "of": _of_callable(function.func)}
    if isinstance(function, types.FunctionType):
        code = function.__code__
        held = {
            name: cell.cell_contents
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            if cell != types.CellType()  # one that is still empty
        }
        defaults = {"defaults": list(function.__defaults__ or ()), **(function.__kwdefaults__ or {})}
        own = (function.__module__ or "").partition(".")[0] == "onebit"  # its code may change between versions
        numbers = [value for value in code.co_consts if isinstance(value, (int, float))]
        return {**held, **defaults, "numbers": [] if own else numbers}
    attributes = getattr(function, "__dict__", {})
    return {name: value for name, value in attributes.items() if not name.startswith("_") and name != "training"}


def _flat(value: Any, name: str = "") -> Settings:
    """Plain values and lists of them by their dotted names; anything else is left out."""
    if isinstance(value, PLAIN):
        return {name: value}
    if isinstance(value, (list, tuple)) and all(isinstance(item, PLAIN) for item in value):
        return {name: list(value)} if len(value) <= MOST_VALUES else {}
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return {name: repr(sorted(value.items()))} if all(isinstance(key, (int, float)) for key in value) else {}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    items = value.items() if isinstance(value, Mapping) else ()
    return {key: leaf for part, item in items for key, leaf in _flat(item, f"{name}.{part}".lstrip(".")).items()}
