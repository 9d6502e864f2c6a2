"""The settings of a run as one dict of plain values, which must be equal when it resumes."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Mapping
from typing import Any

from torch import nn

from onebit.evaluation.forward import generators_of
from onebit.layers import binary_layers, input_quantizers
from onebit.train.job import Job

STEP = ("accumulate", "clip_grad_norm", "clip_grad_value", "samples")
PLAIN = (bool, int, float, str, type(None))
MAX_VALUES = 1_000
"""A longer list is not a setting."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""The address in the repr of an object, which differs in each process."""
Settings = dict[str, Any]
"""Name of a setting -> its value; `settings.optimizer.0.lr` is the rate of the first parameter group."""


def settings_of(job: Job) -> dict[str, Any]:
    """The values that must be equal on resume; "settings" are those of optimizer, schedule and loss."""
    world, optimizer, schedule, loss = job.ranks.world, job.optimizer, job.schedule, job.loss
    stored = None if schedule is None else schedule.state_dict()
    factors = [_of_callable(factor) for factor in getattr(schedule, "lr_lambdas", ())]
    steps = ", ".join(f"{name}={getattr(job.fit, name)!r}" for name in STEP)
    functions = {"loss": _of_callable(loss), "lr_lambdas": factors}
    return {
        "processes": f"{world} with sync_norm" if job.fit.sync_norm and world > 1 else world,
        "seed": job.fit.seed,
        "batch_size": job.fit.batch_size,
        "training images": job.data.count,  # before the number of steps, which depends on it
        "total_steps": job.total_steps,
        "patience": job.fit.patience,
        "precision": job.fit.precision,
        "compile": job.fit.compile,
        "classes": list(job.data.classes),
        "data": job.data.identity() if job.folder is not None else "",  # reading all arrays takes time
        "quantizers": sorted({repr(layer.weight_quantizer) for _, layer in binary_layers(job.model)}),
        "input quantizers": sorted({repr(quantizer) for _, quantizer in input_quantizers(job.model)}),
        "generators": sorted(generators_of(job.model)),
        "modules": _modules(job.model),
        "loss": getattr(loss, "__name__", type(loss).__name__),
        "optimizer": type(optimizer).__name__,
        "schedule": type(schedule).__name__,
        "augmentation": repr(job.augmentation),
        "step": f"StepSettings({steps})",  # as in the checkpoints of runs that may resume
        "ema": job.fit.ema,
        "teacher": None if job.teacher is None else job.teacher.digest,
        "settings": of_states(optimizer.param_groups, stored) | flat(functions),
    }


def _modules(model: nn.Module) -> dict[str, str]:
    """Class and arguments of each module: weights of the same shapes also fit other nets."""
    modules = model.named_modules()
    return {name: ADDRESS.sub("", f"{type(module).__name__}({module.extra_repr()})") for name, module in modules}


def of_states(groups: Any, schedule: Any) -> Settings:
    """The settings in parameter groups and in the state_dict of a schedule, without rates that a schedule changes."""
    found = flat({"optimizer": groups, "schedule": schedule})
    rates = {name for name in found if name.endswith(".lr") and f"{name.removesuffix('lr')}initial_lr" in found}
    return {name: value for name, value in found.items() if name not in rates and not name.endswith("._last_lr")}


def first_difference(began: Settings, last: Settings, now: Settings) -> tuple[str, Any, Any] | None:
    """(name, value then, value now) of the first setting that the user changed; None if there is none.

    Args:
        began: settings at the start; last: in the checkpoint; now: of the resumed run.
    """
    for name in {**now, **began}:
        was, given = began.get(name), now.get(name)
        # a number that training changes, such as a step count, is not a setting
        moved = name in last and last[name] != was
        # versions of torch have different switches
        unknown = name.startswith("settings.") and not (name in began and name in now)
        if was != given and not moved and not unknown:
            return name.removeprefix("settings."), was, given
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


def flat(value: Any, name: str = "") -> Settings:
    """Plain values and lists of them, by dotted name; other values are left out."""
    if isinstance(value, PLAIN):
        return {name: value}
    if isinstance(value, (list, tuple)) and all(isinstance(item, PLAIN) for item in value):
        return {name: list(value)} if len(value) <= MAX_VALUES else {}
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return {name: repr(sorted(value.items()))} if all(isinstance(key, (int, float)) for key in value) else {}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    items = value.items() if isinstance(value, Mapping) else ()
    return {key: leaf for part, item in items for key, leaf in flat(item, f"{name}.{part}".lstrip(".")).items()}
