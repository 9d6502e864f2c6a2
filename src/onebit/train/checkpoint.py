"""The resumable checkpoint of a training."""

from __future__ import annotations

import io
import reprlib
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from onebit.common.files import write_atomic
from onebit.data import classes_in_short
from onebit.errors import CheckpointError, FormatError, first_line
from onebit.evaluation.model_inputs import model_device
from onebit.optim import finish_steps_
from onebit.train.average import WeightAverage
from onebit.train.described import Settings, first_change, settings_of_states
from onebit.train.history import History
from onebit.train.ranks import ALONE, Ranks
from onebit.train.restored import PLAIN, alike, checked_optimizer
from onebit.train.weights import load_weights, read_torch_file, uninterrupted

CHECKPOINT_FORMAT = 2


def _generators(model: nn.Module) -> dict[str, torch.Generator]:
    """Generators that quantizers own, by module name."""
    found = {name: getattr(module, "generator", None) for name, module in model.named_modules()}
    return {name: generator for name, generator in found.items() if isinstance(generator, torch.Generator)}


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    history: History,
    setting: dict[str, Any],
    average: WeightAverage | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Write all that a bit-identical continuation needs: weights, optimizer, schedule, random streams, the rows so far.

    Args:
        setting: facts that must be the same on resume (seed, batch size, …), and under "settings" those that
            `training_settings` finds; compared by `load_checkpoint`.
        ranks: all of them call this, one writes.
    """
    cuda = torch.cuda.get_rng_state(model_device(model)) if model_device(model).type == "cuda" else None
    generators = {name: generator.get_state() for name, generator in _generators(model).items()}
    streams = ranks.gather((torch.get_rng_state(), cuda, generators))
    if not ranks.writes:
        return
    state = {
        "format": CHECKPOINT_FORMAT,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "average": None if average is None else average.state,
        "rng": [(cpu, cuda) for cpu, cuda, _ in streams],
        "generators": {name: [states[name] for _, _, states in streams] for name in generators},
        "rows": history.texts,
        "setting": setting,
        "threads": torch.get_num_threads(),
    }
    # through memory: torch.save reports a full disk as a RuntimeError of its own
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with uninterrupted():
        write_atomic(path, buffer.getbuffer())


def _refuse_other_data(path: Path, key: str, before: Any, now: Any) -> None:
    """What to say of other data: their classes or digest would not help anybody.

    Raises:
        CheckpointError: the key is one of those.
    """
    if key == "classes":
        there, here = classes_in_short(before, now)
        what = f"on the classes {there}, this data has {here}"
    elif key == "data":
        what = "on other images or labels than these"
    else:
        return
    raise CheckpointError(f"{path}: was trained {what}; resume with the same data or choose another --out")


def _refuse_other_setting(path: Path, name: str, before: Any, now: Any) -> NoReturn:
    same = "as many processes under torchrun" if name == "processes" else "the same recipe"
    was = repr(before) if isinstance(before, PLAIN) else reprlib.repr(before)  # which is short, whatever a file nests
    raise CheckpointError(
        f"{path}: was trained with {name} = {was}, this run has {now!r}; resume with {same} or choose another --out"
    )


def load_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    setting: dict[str, Any],
    average: WeightAverage | None = None,
    ranks: Ranks = ALONE,
) -> History:
    """Restore what `save_checkpoint` wrote into freshly built objects, in place.

    Args:
        setting: as of `save_checkpoint`; its "settings" become those that the training began with.

    Returns:
        The epochs done so far.

    Raises:
        FormatError: not a checkpoint, damaged, or one that would run code.
        CheckpointError: a checkpoint of another net, optimizer or setting.
    """
    state = ranks.first(lambda: read_torch_file(path))  # the others may not even see the file
    version = state.get("format") if isinstance(state, dict) else None
    if type(version) is not int or version != CHECKPOINT_FORMAT:
        raise FormatError(f"{path}: not a training checkpoint of this version of onebit")
    try:
        compared = {**setting, "generators": sorted(_generators(model))}
        del compared["settings"]
        before = state["setting"] | {"generators": sorted(state["generators"])}
        for key, value in compared.items():
            # earlier versions did not tell the data
            if before.get(key, value if key in ("classes", "data") else None) != value:
                _refuse_other_data(path, key, before.get(key), value)
                _refuse_other_setting(path, key, before.get(key), value)
        history = History.from_rows(state["rows"])
        load_weights(model, state["model"], source=str(path))
        moved = checked_optimizer(state["optimizer"], optimizer)
        scheduled = None if schedule is None else alike(state["schedule"], schedule.state_dict(), "schedule")
        began: Settings = before.get("settings", setting["settings"])
        last = settings_of_states(moved["param_groups"], scheduled)
        if changed := first_change(began, last, setting["settings"]):
            _refuse_other_setting(path, *changed)
        setting["settings"] = began
        optimizer.load_state_dict(moved)
        finish_steps_(optimizer)
        if schedule is not None and scheduled is not None:
            schedule.load_state_dict(scheduled)
        if average is not None:
            average.load_state(state["average"])
        cpu, cuda = state["rng"][ranks.rank]
        torch.set_rng_state(cpu)
        if cuda is not None and model_device(model).type == "cuda":
            torch.cuda.set_rng_state(cuda, model_device(model))
        for name, generator in _generators(model).items():
            generator.set_state(state["generators"][name][ranks.rank])
        threads = int(state["threads"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{path}: does not fit this training ({reason})") from error
    if threads != torch.get_num_threads():
        warnings.warn(
            f"the run had {threads} threads and goes on with {torch.get_num_threads()}: "
            "the result will not be bit-identical",
            stacklevel=2,
        )
    return history
