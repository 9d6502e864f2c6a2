"""The checkpoint from which a training continues."""

from __future__ import annotations

import io
import re
import reprlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onebit.common.files import write_atomic
from onebit.common.signals import uninterrupted
from onebit.errors import CheckpointError, FormatError, first_line
from onebit.layers import binary_layers, input_quantizers
from onebit.optim import finish_steps_
from onebit.train.history import History
from onebit.train.job import Job
from onebit.train.resuming import (
    alike,
    check_parts,
    checked_optimizer,
    first_change,
    settings_of_states,
    training_settings,
)
from onebit.train.weights import fitting_state, read_torch_file

CHECKPOINT_FORMAT = 2
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where a representation puts an object in memory: elsewhere in each process."""


def settings_of(job: Job) -> dict[str, Any]:
    """What must be the same on resume; "settings" are those of optimizer, schedule and loss."""
    world = job.ranks.world
    return {
        "processes": f"{world} with sync_norm" if job.sync_norm and world > 1 else world,
        "seed": job.seed,
        "batch_size": job.batch_size,
        "training images": job.data.count,  # before the number of steps, which follows from it
        "total_steps": job.total_steps,
        "precision": job.precision,
        "compile": job.compile,
        "classes": list(job.data.classes),
        "data": job.data.identity() if job.folder is not None else "",  # reading all arrays takes time
        "quantizers": sorted({repr(layer.weight_quantizer) for _, layer in binary_layers(job.model)}),
        "input quantizers": sorted({repr(quantizer) for _, quantizer in input_quantizers(job.model)}),
        "modules": _modules(job.model),
        "loss": getattr(job.loss, "__name__", type(job.loss).__name__),
        "optimizer": type(job.optimizer).__name__,
        "schedule": type(job.schedule).__name__,
        "augmentation": repr(job.augmentation),
        "step": repr(job.step_settings),
        "ema": job.ema,
        "teacher": None if job.teacher is None else job.teacher.digest,
        "settings": training_settings(job.optimizer, job.schedule, job.loss),
    }


def _modules(model: nn.Module) -> dict[str, str]:
    """What each module is, by name: weights of the same shapes fit nets that compute something else."""
    found = {name: f"{type(module).__name__}({module.extra_repr()})" for name, module in model.named_modules()}
    return {name: ADDRESS.sub("", text) for name, text in found.items()}


def _generators(model: nn.Module) -> dict[str, torch.Generator]:
    """Generators that quantizers own, by module name."""
    found = {name: getattr(module, "generator", None) for name, module in model.named_modules()}
    return {name: generator for name, generator in found.items() if isinstance(generator, torch.Generator)}


def _other_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that weight files do not hold, `persistent=False`; the training goes on from them all the same."""
    saved = model.state_dict()
    return {name: buffer.detach() for name, buffer in model.named_buffers() if name not in saved}


def save_checkpoint(path: Path, job: Job) -> None:
    """Write everything that a bit-identical continuation needs. All ranks call this, one of them writes."""
    cuda = torch.cuda.get_rng_state(job.device) if job.device.type == "cuda" else None
    generators = {name: generator.get_state() for name, generator in _generators(job.model).items()}
    streams = job.ranks.gather((torch.get_rng_state(), cuda, generators))
    optimizer = job.optimizer.state_dict()  # on all ranks: it drops draws of `compile_update_`, which are not saved
    if not job.ranks.writes:
        return
    state = {
        "format": CHECKPOINT_FORMAT,
        "model": job.model.state_dict(),
        "buffers": _other_buffers(job.model),
        "optimizer": optimizer,
        "schedule": None if job.schedule is None else job.schedule.state_dict(),
        "average": None if job.average is None else job.average.state,
        "rng": [(cpu, cuda) for cpu, cuda, _ in streams],
        "generators": {name: [states[name] for _, _, states in streams] for name in generators},
        "rows": job.history.texts,
        "setting": job.settings,
        "threads": torch.get_num_threads(),
    }
    # through memory: torch.save reports a full disk as a RuntimeError of its own
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with uninterrupted():
        write_atomic(path, buffer.getbuffer())


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, in the form that `save_checkpoint` writes; errors as `load_checkpoint`."""
    state = read_torch_file(path)
    version = state.get("format") if isinstance(state, dict) else None
    if type(version) is not int or version != CHECKPOINT_FORMAT:
        raise FormatError(f"{path}: not a training checkpoint of this version of onebit")
    try:
        check_parts(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: does not fit this training ({error})") from None
    return state


def _fitting(job: Job, state: dict[str, Any]) -> dict[str, Any]:
    """The parts of a checkpoint for this rank; CheckpointError if they are not of the kind that this training has."""
    ranks, buffers, streams = job.ranks, _other_buffers(job.model), _generators(job.model)
    if len(state["rng"]) != ranks.world:
        raise CheckpointError(f"it has random states of {len(state['rng'])} processes, there are {ranks.world}")
    own = {name: [generator.get_state()] * ranks.world for name, generator in streams.items()}
    states = alike(state["generators"], own, "generators")
    try:  # torch's own check of random states
        history = History.from_rows(state["rows"])
        cpu, cuda = state["rng"][ranks.rank]
        torch.Generator().set_state(cpu)
        if cuda is not None and job.device.type == "cuda":
            torch.Generator(job.device).set_state(cuda)
        for name, generator in streams.items():
            torch.Generator(generator.device).set_state(states[name][ranks.rank])
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(first_line(error)) from None
    history.threads = state["threads"]
    return {
        "history": history,
        "buffers": alike(state["buffers"], buffers, "buffers"),
        "optimizer": checked_optimizer(state["optimizer"], job.optimizer),
        "schedule": job.schedule and alike(state.get("schedule"), job.schedule.state_dict(), "schedule"),
        "average": job.average and alike(state.get("average"), job.average.state, "average"),
        "cpu": cpu,
        "cuda": cuda if job.device.type == "cuda" else None,
        "generators": {name: states[name][ranks.rank] for name in streams},
    }


def load_checkpoint(path: Path, job: Job) -> None:
    """Restore in place what `save_checkpoint` wrote; `job` is freshly built.

    The "settings" in `job.settings` become those that the training began with.
    """
    state = job.ranks.first(lambda: _read(path))  # the others may not even see the file
    before, now = _by_name(state["setting"], state["generators"]), _by_name(job.settings, _generators(job.model))
    _refuse_other_settings(path, before, now)
    weights = fitting_state(job.model, state["model"], source=str(path))
    try:
        stored = _fitting(job, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: does not fit this training ({error})") from None
    began: dict[str, Any] = state["setting"]["settings"]
    last = settings_of_states(stored["optimizer"]["param_groups"], stored["schedule"])
    if changed := first_change(began, last, job.settings["settings"]):
        name, was, given = changed
        _refuse_other_settings(path, {name: was}, {name: given})
    # nothing is changed before all of it fits
    job.settings["settings"] = began
    job.model.load_state_dict(weights)
    for name, buffer in _other_buffers(job.model).items():
        buffer.copy_(stored["buffers"][name])
    job.optimizer.load_state_dict(stored["optimizer"])
    finish_steps_(job.optimizer)
    if job.schedule is not None:
        job.schedule.load_state_dict(stored["schedule"])
    if job.average is not None:
        job.average.load_state(stored["average"])
    torch.set_rng_state(stored["cpu"])
    if stored["cuda"] is not None:
        torch.cuda.set_rng_state(stored["cuda"], job.device)
    for name, generator in _generators(job.model).items():
        generator.set_state(stored["generators"][name])
    history = stored["history"]
    unfinished = not history.rows or history.rows[-1].step < job.total_steps
    if unfinished and history.threads != torch.get_num_threads():
        warnings.warn(
            f"the run had {history.threads} threads and continues with {torch.get_num_threads()}: "
            "the result will not be bit-identical",
            stacklevel=2,
        )
    job.history = history


def _refuse_other_settings(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare all settings of two training runs."""
    for name in (*now, *before):
        was, given = before.get(name), now.get(name)
        if was != given:
            raise CheckpointError(
                f"{path}: was trained with {name} = {reprlib.repr(was)}, this run has {reprlib.repr(given)}"
            )


def _by_name(setting: dict[str, Any], generators: Any) -> dict[str, Any]:
    """Settings by name, each module as one; those of optimizer, schedule and loss are left to `first_change`."""
    modules = {f"module {name!r}": text for name, text in setting["modules"].items()}
    rest = {name: value for name, value in setting.items() if name not in ("modules", "settings")}
    return {**rest, "generators": sorted(generators, key=str), **modules}
