"""What a checkpoint must share with the training that continues it: settings, and the kind of every stored state."""

from __future__ import annotations

import functools
import reprlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from onebit.errors import CheckpointError
from onebit.train.weights import is_odd

MAPPINGS = dict.fromkeys(("model", "buffers", "optimizer", "generators", "setting"), dict)
PARTS = {**MAPPINGS, "rng": list, "rows": list, "threads": int}
"""What every checkpoint holds, by its type."""
PLAIN = (bool, int, float, str, type(None))
MOST_VALUES = 1_000
"""Items of a list; a longer list is not a setting."""
DEEPEST, MOST_ITEMS = 12, 1_000_000
"""How deep a checkpoint nests mappings and lists, and how many values they have."""
Settings = dict[str, Any]
"""Name of a setting -> its value. Names have dots: `optimizer.0.lr` is the rate of the first parameter group."""
SINGLE = ("step", "mu_product", "eta", "mu")
"""States that the optimizers of torch keep as a single number per parameter."""
KNOWN = ("torch.", "onebit.")
"""Modules of optimizers with the same kind of state for every parameter."""


def earlier_steps(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler | None, *, resume: bool
) -> str:
    """What is not at its beginning where a training has no checkpoint to go on from, in words; "" for nothing.

    Args:
        resume: a checkpoint was looked for, so the objects can be those of an interrupted training.
    """
    done = getattr(schedule, "last_epoch", 0)
    if done > 0:
        return (
            f"the schedule has made {done:,} steps before this training, which goes on from there: make a new one for "
            "a training from the start"
        )
    if resume and any(state.keys() - {"prior"} for state in optimizer.state.values()):  # set before the first step
        return (
            "there is no checkpoint to resume from, and the optimizer has made steps: the training begins with its "
            "state and the present weights; make the model and the optimizer anew for a training from the start"
        )
    return ""


# ------------------------------------------------------------------------------------------------------------ settings
def training_settings(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler | None, loss: Any
) -> Settings:
    """The settings at the start of a training."""
    stored = None if schedule is None else schedule.state_dict()
    factors = [_of_callable(factor) for factor in getattr(schedule, "lr_lambdas", ())]
    functions = {"loss": _of_callable(loss), "lr_lambdas": factors}
    return settings_of_states(optimizer.param_groups, stored) | _flat(functions)


def settings_of_states(groups: Any, schedule: Any) -> Settings:
    """The settings in the parameter groups of an optimizer and in the state_dict of a schedule, as they are now.

    A rate that a schedule changes is left out; its `initial_lr` is not.
    """
    kept = [
        {key: value for key, value in group.items() if key != "params" and (key != "lr" or "initial_lr" not in group)}
        for group in groups
    ]
    found = _flat({"optimizer": kept, "schedule": schedule})
    return {name: value for name, value in found.items() if not name.endswith("._last_lr")}


def first_change(began: Settings, last: Settings, now: Settings) -> tuple[str, Any, Any] | None:
    """(name, value then, value now) of the first setting that the user changed; None if there is none.

    Args:
        began: at the start of the training; last: in its checkpoint; now: of the training that continues it.
    """
    for name, value in now.items():
        then, stored = began.get(name, value), last.get(name, value)
        if isinstance(stored, bool):
            then = stored  # training changes no switch; one like amsgrad decides which states there are
        # a number that training itself changes, such as a step count, is not a setting
        if then != value and last.get(name, then) == then:
            words = [word for word in name.split(".")[1:] if not word.isdecimal()]
            return ".".join(words) or name, then, value
    return None


def _of_callable(function: Any) -> Any:
    """The arguments and attributes of a loss or a factor."""
    if isinstance(function, functools.partial):
        return {"arguments": list(function.args), **function.keywords, "of": _of_callable(function.func)}
    if isinstance(function, types.FunctionType):
        names = function.__code__.co_freevars
        held = [None if cell == types.CellType() else cell.cell_contents for cell in function.__closure__ or ()]
        return dict(zip(names, held, strict=True))
    attributes = getattr(function, "__dict__", {})
    return {name: value for name, value in attributes.items() if not name.startswith("_") and name != "training"}


def _flat(value: Any, name: str = "") -> Settings:
    """Plain values and lists of them by dotted name; everything else is left out."""
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


# -------------------------------------------------------------------------------------------------------------- states
def checked_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state_dict in a checkpoint, checked against a fresh `optimizer`.

    torch accepts any state_dict; a state of another kind would break the first step.
    """
    fresh, states = optimizer.state_dict()["param_groups"], found.get("state")
    count = sum(len(own["params"]) for own in fresh)
    if not isinstance(states, dict) or any(type(place) is not int or not 0 <= place < count for place in states):
        raise CheckpointError("the optimizer has no state, or that of a parameter that it does not train")
    groups = alike(found.get("param_groups"), fresh, "param_groups")
    for group, own, given in zip(groups, fresh, found["param_groups"], strict=True):
        if group["params"] != own["params"] or not group.get("lr_factor", 1.0) > 0:
            raise CheckpointError("a parameter group has other parameters, or an lr_factor that is not positive")
        group |= {key: value for key, value in given.items() if key not in own and isinstance(value, PLAIN)}
    known = type(optimizer).__module__.startswith(KNOWN)
    first: dict[Any, Any] = {}  # the kinds of the first parameter's states, for latents and for other parameters
    for group, own in zip(optimizer.param_groups, fresh, strict=True):
        for place, parameter in zip(own["params"], group["params"], strict=True):
            if place not in states:
                continue
            values = states[place]
            named = isinstance(values, dict) and all(isinstance(name, str) for name in values)
            kinds = {
                name: _kind(name, value, parameter, known=known) for name, value in (values.items() if named else ())
            }
            like = first.setdefault(bool(group.get("latent")), kinds)
            other = like.keys() != kinds.keys() or any(len({like[name], kinds[name]} - {None}) > 1 for name in like)
            if not named or (known and other):
                raise CheckpointError(f"the state of parameter {place} is {reprlib.repr(values)}")
    return {"state": states, "param_groups": groups}


def check_parts(state: dict[str, Any]) -> None:
    """Check the form of a checkpoint by itself, before anything compares or restores a part of it."""
    setting = state["setting"] if isinstance(state.get("setting"), dict) else {}
    wrong = [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]
    wrong += [name for name in ("modules", "settings") if not isinstance(setting.get(name), dict)]
    wrong += [key for key, value in _nested(state) if isinstance(value, Tensor) and is_odd(value, empty=True)]
    wrong += [key for key, value in _nested(setting) if isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{wrong[0]} is not what a checkpoint holds there")


def _nested(content: Any) -> Iterator[tuple[Any, Any]]:
    """(name, value) of everything in nested mappings and lists, from a file that nobody vouches for."""
    level, count = [("", content)], 0
    for depth in range(1, DEEPEST + 1):
        below: list[tuple[Any, Any]] = []
        for name, value in level:
            yield name, value
            if isinstance(value, Mapping):
                below += value.items()
            elif isinstance(value, (list, tuple)):
                below += [(name, item) for item in value]
            if count + len(below) > MOST_ITEMS or (below and depth == DEEPEST):
                raise CheckpointError(f"more than {MOST_ITEMS:,} values, or nested more than {DEEPEST} deep")
        level, count = below, count + len(below)


def alike(found: Any, expected: Any, name: str) -> Any:
    """`found`, if it is of the same kind as `expected`; unexpected keys are left out.

    Switches may be missing, as versions of torch have different ones.
    """
    if isinstance(expected, dict) and isinstance(found, Mapping):
        if all(isinstance(key, str) for key in expected):
            switches = {key: value for key, value in expected.items() if value is None or isinstance(value, bool)}
            found = {**switches, **found}
            return {key: alike(found.get(key, "missing"), value, f"{name}.{key}") for key, value in expected.items()}
        if all(_is_number(part) for item in found.items() for part in item):  # a Counter, as of milestones
            return found
    elif (
        isinstance(expected, (list, tuple))
        and type(found) is type(expected)
        and len(found) == len(expected)
        and all(item is None for item, own in zip(found, expected, strict=True) if own is None)  # as for a function
    ):
        return type(expected)(
            alike(item, own, f"{name}.{place}") for place, (item, own) in enumerate(zip(found, expected, strict=True))
        )
    elif isinstance(expected, Tensor) and isinstance(found, Tensor) and found.shape == expected.shape:
        return found
    elif isinstance(expected, (bool, str, type(None))):
        # None: not chosen yet; training may set it
        if isinstance(found, PLAIN if expected is None else type(expected)):
            return found
    elif _is_number(expected) and _is_number(found):
        return found
    elif not isinstance(expected, (dict, list, tuple, Tensor, *PLAIN)):
        return expected  # an object, which a checkpoint cannot hold
    raise CheckpointError(f"{name} is {reprlib.repr(found)}, expected {reprlib.repr(expected)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (value != value or abs(value) < 2**63)


def _kind(name: str, value: Any, parameter: Tensor, *, known: bool) -> Any:
    """What is the same for all parameters; CheckpointError for a tensor that no optimizer makes, or a negative step."""
    # torch would read beyond the end of a single number
    odd = isinstance(value, Tensor) and (
        is_odd(value) or bool(known and not value.dim() and parameter.dim() and name not in SINGLE)
    )
    number = value.item() if isinstance(value, Tensor) and not odd and value.numel() == 1 else value
    if odd or (name == "step" and not (_is_number(number) and number >= 0)):
        raise CheckpointError(f"{name} is {reprlib.repr(value)}")
    if isinstance(value, Tensor):
        if not value.dim() and not parameter.dim():
            return None  # for a parameter that is a single number, both look alike
        return (value.is_floating_point(), value.shape == parameter.shape, value.dim() == 0)
    return "number" if _is_number(value) else type(value).__name__
