"""Checkpoints, from which training resumes bit for bit."""

from __future__ import annotations

import io
import reprlib
import warnings
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.files import write_atomic
from onebit.common.signals import uninterrupted
from onebit.common.text import change_in_words
from onebit.errors import CheckpointError, FormatError, first_line
from onebit.evaluation.forward import generators_of
from onebit.native import instruction_set
from onebit.optim import finish_steps_
from onebit.train.average import copy_tensors_
from onebit.train.history import History
from onebit.train.job import Job
from onebit.train.run_settings import PLAIN, first_difference, flat, of_states
from onebit.train.weights import is_unusual_storage, read_torch_file

CHECKPOINT_FORMAT = 2
MAX_DEPTH, MAX_ITEMS = 12, 1_000_000
"""Limits of a checkpoint: depth of its mappings and lists, and number of values."""
ONE_VALUE = ("step", "mu_product", "eta", "mu")
"""Optimizer states that torch keeps as one number per parameter."""
FACTORS = ("row_var", "col_var")
"""States of Adafactor, which are smaller than the parameter."""
KNOWN = ("torch.", "onebit.")
"""Packages whose optimizers have only these states and tensors of the shape of the parameter."""


def _other_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers with `persistent=False`, which the state_dict leaves out."""
    saved = model.state_dict()
    return {name: buffer.detach() for name, buffer in model.named_buffers() if name not in saved}


def _content(job: Job) -> dict[str, Any]:
    """Everything that resuming bit for bit needs. All ranks call this."""
    cuda = torch.cuda.get_rng_state(job.device) if job.device.type == "cuda" else None
    generators = {name: generator.get_state() for name, generator in generators_of(job.model).items()}
    streams = job.ranks.gather((torch.get_rng_state(), cuda, generators))
    return {
        "format": CHECKPOINT_FORMAT,
        "model": job.model.state_dict(),
        "buffers": _other_buffers(job.model),
        "optimizer": job.optimizer.state_dict(),
        "schedule": None if job.schedule is None else job.schedule.state_dict(),
        "average": None if job.average is None else job.average.state,
        "rng": [(cpu, cuda) for cpu, cuda, _ in streams],
        "generators": {name: [states[name] for _, _, states in streams] for name in generators},
        "rows": job.history.texts,
        "setting": job.settings,
        **_arithmetic(),
    }


def _arithmetic() -> dict[str, Any]:
    """What decides the order of sums."""
    isa = instruction_set()
    return {"threads": torch.get_num_threads(), "kernels": isa.name if isa else "no"}


def save_checkpoint(path: Path, job: Job) -> None:
    """Write a checkpoint. All ranks call this; one of them writes."""
    state = _content(job)
    if job.ranks.writes:
        # through memory: torch.save reports a full disk as a RuntimeError
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with uninterrupted():
            write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path, job: Job) -> None:
    """Restore what `save_checkpoint` wrote into a freshly built job; `job.settings` become those of the first start."""
    state = job.ranks.first(lambda: _read(path))  # other ranks may not see the file
    try:
        _restore(state, job)
    except (CheckpointError, LookupError, AttributeError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {first_line(error)}") from None
    rows, now = job.history.rows, _arithmetic()
    if (not rows or rows[-1].step < job.total_steps) and any(state[name] != now[name] for name in now):
        was, here = (f"{of['threads']} threads and {of['kernels']} kernels" for of in (state, now))
        warnings.warn(
            f"the run had {was} and continues with {here}: the result will not be bit-identical", stacklevel=2
        )


def _restore(state: dict[str, Any], job: Job) -> None:
    """Compare the settings and the types of all parts, then restore them."""
    began = {**state["setting"], "generators": sorted(state["generators"], key=str)}
    last = of_states(state["optimizer"].get("param_groups"), state.get("schedule"))
    if changed := first_difference(flat(began), flat({"settings": last}), flat(job.settings)):
        (name, was, now), steps = changed, job.feed.steps
        # a loader may have had another length
        if name == "total_steps" and History.from_rows(state["rows"]).rows[0].step == steps:
            name, was, now = "epochs", was / steps, now / steps
        raise CheckpointError(change_in_words(name, was, now))
    expected = _content(job)
    expected["rng"] = [(cpu, None) for cpu, _ in expected["rng"]]  # training may move between CPU and GPU
    parts = ("model", "buffers", "schedule", "average", "rng", "generators", "threads", "kernels")
    checked = {name: checked_like(state.get(name), expected[name], name) for name in parts}
    stored, here = (of["optimizer"].get("param_groups") for of in (state, expected))
    # with what a user's optimizer adds while it runs, such as a count
    groups = [old | group for old, group in zip(stored or (), checked_like(stored, here, "param_groups"), strict=True)]
    cpu, cuda = checked["rng"][job.ranks.rank]
    history = History.from_rows(state.get("rows"))
    _check_states(job.optimizer, groups, state["optimizer"]["state"])
    torch.set_rng_state(cpu)
    if cuda is not None and job.device.type == "cuda":
        torch.cuda.set_rng_state(cuda, job.device)
    for name, generator in generators_of(job.model).items():
        generator.set_state(checked["generators"][name][job.ranks.rank])
    if job.schedule is not None:
        job.schedule.load_state_dict(checked["schedule"])
    job.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
    history.threads = checked["threads"]
    job.settings, job.history = state["setting"], history
    job.model.load_state_dict(checked["model"])
    for name, buffer in _other_buffers(job.model).items():
        buffer.copy_(checked["buffers"][name])
    finish_steps_(job.optimizer)
    if job.average is not None:
        copy_tensors_(checked["average"], job.average.state)


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, bounded in size and depth."""
    state = read_torch_file(path)
    version = state.get("format") if isinstance(state, dict) else None
    if not isinstance(version, int) or version != CHECKPOINT_FORMAT:
        raise FormatError(f"{path}: not a training checkpoint of this version of onebit")
    level, left, unusual = [state], MAX_ITEMS, False
    for _ in range(MAX_DEPTH):
        inner = (value.values() if isinstance(value, dict) else value for value in level)
        level = list(islice(chain.from_iterable(inner), left + 1))
        left -= len(level)
        unusual |= any(isinstance(value, Tensor) and is_unusual_storage(value, empty=True) for value in level)
        level = [value for value in level if isinstance(value, (dict, list, tuple))]
    if left < 0 or level or unusual:
        raise CheckpointError(
            f"{path}: too many values, or a tensor that is sparse, quantized, or larger than its memory"
        )
    return state


def checked_like(saved: Any, expected: Any, name: str) -> Any:
    """`saved` without unexpected keys, if it has the types and shapes of `expected`; CheckpointError otherwise.

    Booleans and None may be missing: versions of torch have different switches.
    """
    fits = isinstance(saved, type(expected))
    if isinstance(expected, dict) and fits:
        if not all(isinstance(key, str) for key in expected):  # a Counter of milestones
            return saved
        saved = {key: value for key, value in expected.items() if value is None or isinstance(value, bool)} | saved
        return {key: checked_like(saved.get(key, "missing"), value, f"{name}.{key}") for key, value in expected.items()}
    if isinstance(expected, (list, tuple)) and fits and len(saved) == len(expected):
        pairs = enumerate(zip(saved, expected, strict=True))
        return type(expected)(checked_like(item, own, f"{name}.{index}") for index, (item, own) in pairs)
    if isinstance(expected, Tensor):
        fits = fits and saved.shape == expected.shape
    elif isinstance(expected, (int, float)):
        fits = isinstance(saved, bool if isinstance(expected, bool) else (int, float))
    elif expected is None:  # not chosen yet; training may set it
        fits = isinstance(saved, (*PLAIN, Tensor))
    elif isinstance(expected, (dict, list, tuple)):
        fits = False
    elif not isinstance(expected, str):
        return expected  # an object, which no checkpoint holds
    if not fits:
        raise CheckpointError(f"{name} is {reprlib.repr(saved)}, expected {reprlib.repr(expected)}")
    return saved


def _check_states(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], states: Any) -> None:
    """Check the shapes of states: torch accepts any, and reads beyond the end of one that is too small."""
    ids, parameters = ([each for group in of for each in group["params"]] for of in (groups, optimizer.param_groups))
    by_id = dict(zip(ids, parameters, strict=True))
    if not type(optimizer).__module__.startswith(KNOWN):
        return
    for number, state in states.items():
        parameter = by_id[number]
        for name, value in state.items():
            if name in ONE_VALUE:
                one = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, (int, float))
                fits = one and float(value) >= 0
            elif isinstance(value, Tensor):
                fits = name in FACTORS or value.shape == parameter.shape
            else:
                fits = value is None and name == "momentum_buffer"
            if not fits:
                raise CheckpointError(f"{name} of a parameter {tuple(parameter.shape)} is {reprlib.repr(value)}")
