"""States of optimizers and schedules from a checkpoint, checked against fresh ones before they are believed.

torch takes over whatever a state_dict holds; what is of another kind would break the first step of the training.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PLAIN = (bool, int, float, str, type(None))
SINGLE = ("step", "mu_product", "eta", "mu")
"""What the optimizers of torch keep as a single number of a parameter."""
ADD_STATES = ("amsgrad", "centered")
"""Switches with which an optimizer of torch keeps one state more, which others lack."""
KNOWN = ("torch.", "onebit.")
"""Modules of optimizers whose parameters all have states of the same kind."""


def refuse_odd(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not a plain one: sparse, quantized, empty, without memory or larger than it.

    Raises:
        ValueError: it is.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or 0 in tensor.shape:
        raise ValueError(f"tensor {name!r} is sparse, quantized or empty; weights are plain dense tensors")
    if tensor.is_meta:
        raise ValueError(f"tensor {name!r} has no values, only a shape")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"tensor {name!r} of shape {tuple(tensor.shape)} has fewer values than its shape says")


def checked_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state_dict of an optimizer, if it can be one of `optimizer`.

    Raises:
        ValueError: it cannot; the message says what is wrong with it.
    """
    fresh = optimizer.state_dict()["param_groups"]
    states = found.get("state") if isinstance(found, dict) else None
    if not isinstance(states, dict):
        raise ValueError("the optimizer has no state")
    groups = alike(found.get("param_groups"), fresh, "param_groups")
    for group, own, given in zip(groups, fresh, found["param_groups"], strict=True):
        if group["params"] != own["params"]:
            raise ValueError("a parameter group has other parameters")
        for switch in ADD_STATES:
            if group.get(switch) != own.get(switch):
                raise ValueError(f"{switch} is {group.get(switch)!r}, this training has {own.get(switch)!r}")
        group |= {key: value for key, value in given.items() if key not in own and isinstance(value, PLAIN)}
    known = type(optimizer).__module__.startswith(KNOWN)
    first: dict[Any, Any] = {}  # the state of a first parameter, to which the others are compared
    for group, own in zip(optimizer.param_groups, fresh, strict=True):
        for place, parameter in zip(own["params"], group["params"], strict=True):
            if place not in states:
                continue
            values = states[place]
            if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
                raise ValueError(f"the state of parameter {place} is {reprlib.repr(values)}")
            kinds = {name: _kind(name, value, parameter, known=known) for name, value in values.items()}
            like = first.setdefault(bool(group.get("latent")), kinds)
            if known and (like.keys() != kinds.keys() or any(not _agree(like[name], kinds[name]) for name in like)):
                raise ValueError(f"the state of parameter {place} is of another kind than that of others")
    if any(type(place) is not int or not 0 <= place < sum(len(own["params"]) for own in fresh) for place in states):
        raise ValueError("the optimizer has the state of a parameter that it does not move")
    return {"state": states, "param_groups": groups}


def alike(found: Any, expected: Any, name: str) -> Any:
    """`found`, if it is of the same kind as `expected`; keys that are not expected are left out.

    Switches may be missing: versions of torch differ in them.

    Raises:
        ValueError: it is not.
    """
    if isinstance(expected, dict) and isinstance(found, Mapping):
        if all(isinstance(key, str) for key in expected):
            switches = {key: value for key, value in expected.items() if value is None or isinstance(value, bool)}
            found = {**switches, **found}
            return {key: alike(found.get(key, "missing"), value, f"{name}.{key}") for key, value in expected.items()}
        if all(_is_number(part) for item in found.items() for part in item):  # a Counter, as of milestones
            return found
    elif isinstance(expected, (list, tuple)) and type(found) is type(expected) and len(found) == len(expected):
        return type(expected)(
            alike(item, own, f"{name}.{place}") for place, (item, own) in enumerate(zip(found, expected, strict=True))
        )
    elif isinstance(expected, Tensor) and isinstance(found, Tensor) and found.shape == expected.shape:
        refuse_odd(name, found)
        return found
    elif isinstance(expected, bool) or expected is None or isinstance(expected, str):
        # None stands for what nothing was chosen for, and what a training may set
        if isinstance(found, PLAIN if expected is None else type(expected)):
            return found
    elif _is_number(expected) and _is_number(found):
        return found
    elif not isinstance(expected, (dict, list, tuple, Tensor, *PLAIN)):
        return expected  # an object, which no checkpoint holds
    raise ValueError(f"{name} is {reprlib.repr(found)}, expected {reprlib.repr(expected)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (value != value or abs(value) < 2**63)


def _agree(one: Any, other: Any) -> bool:
    return one is None or other is None or one == other


def _kind(name: str, value: Any, parameter: Tensor, *, known: bool) -> Any:
    """What must be the same for all parameters of an optimizer.

    Raises:
        ValueError: a tensor that no optimizer makes, or a number of steps below zero.
    """
    if isinstance(value, Tensor):
        refuse_odd(name, value)
    if name == "step" and not (float(value) >= 0):
        raise ValueError(f"step is {reprlib.repr(value)}, expected 0 or more")
    if isinstance(value, Tensor):
        if not value.dim() and not parameter.dim():
            return None  # of a parameter that is a single number, both look alike
        if known and not value.dim() and name not in SINGLE:  # torch would read beyond its end
            raise ValueError(f"{name} is a single number, expected one for each value of its parameter")
        return (value.is_floating_point(), value.shape == parameter.shape, value.dim() == 0)
    return "number" if _is_number(value) else type(value).__name__
