"""Files of a training: a resumable checkpoint, plain weights, and loading either without running code from the file."""

from __future__ import annotations

import io
import json
import signal
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from onebit.errors import CheckpointError, FormatError, first_line
from onebit.files import write_atomic
from onebit.optim import clip_latents_
from onebit.train.history import History

CHECKPOINT_FORMAT = 1
PREFIXES = ("_orig_mod.", "module.", "model.")
CODE_MARKS = ("unsupported global", "unsupported class", "unrecognized function", "torchscript")
"""How `torch.load` words its refusal of a file that names functions or classes, in lower case."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C within the context is raised when the context ends, so that a write is never cut in half."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGINT) is None:  # a handler that Python did not install cannot be put back
        yield
        return
    pending: list[tuple[Any, ...]] = []
    previous = signal.signal(signal.SIGINT, lambda *args: pending.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending and callable(previous):
        previous(*pending[0])


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
) -> None:
    """Write all that a bit-identical continuation needs: weights, optimizer, schedule, random streams, the rows so far.

    Args:
        setting: facts that must be the same on resume (seed, batch size, …); compared by `load_checkpoint`.
    """
    state = {
        "format": CHECKPOINT_FORMAT,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "generators": {name: generator.get_state() for name, generator in _generators(model).items()},
        "rows": [row.__dict__ for row in history.rows],
        "setting": setting,
        "threads": torch.get_num_threads(),
    }
    # through memory: torch.save reports a full disk as a RuntimeError of its own
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with uninterrupted():
        write_atomic(path, buffer.getbuffer())


def load_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    setting: dict[str, Any],
) -> History:
    """Restore what `save_checkpoint` wrote into freshly built objects, in place.

    Returns:
        The epochs done so far.

    Raises:
        FormatError: not a checkpoint, damaged, or one that would run code.
        CheckpointError: a checkpoint of another net, optimizer or setting.
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise FormatError(f"{path}: not a training checkpoint of this version of onebit")
    try:
        setting = setting | {"generators": sorted(_generators(model))}
        before = state["setting"] | {"generators": sorted(state["generators"])}
        for key, value in setting.items():
            if before.get(key) != value:
                raise CheckpointError(
                    f"{path}: was trained with {key} = {before.get(key)!r}, this run has {value!r}; "
                    "resume with the same recipe or choose another --out"
                )
        history = History.from_dicts(state["rows"])
        load_weights(model, state["model"], source=str(path))
        optimizer.load_state_dict(state["optimizer"])
        clip_latents_(optimizer)
        if schedule is not None:
            schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        for name, generator in _generators(model).items():
            generator.set_state(state["generators"][name])
        threads = int(state["threads"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{path}: does not fit this training ({reason})") from error
    if threads != torch.get_num_threads():
        warnings.warn(
            f"the run had {threads} threads and goes on with {torch.get_num_threads()}: "
            "the result will not be bit-identical",
            stacklevel=2,
        )
    return history


def read_torch_file(path: Path) -> Any:
    """What a `.pth`/`.pt`/`.ckpt` file holds, loaded without running code from it.

    Raises:
        FormatError: unreadable, or the file holds Python objects that are not plain data.
    """
    try:
        _check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise FormatError(f"{path}: is a folder, not a file") from None
    except Exception as error:  # torch raises whatever the damaged part of the file leads to
        if any(mark in str(error).lower() for mark in CODE_MARKS):
            raise FormatError(
                f"{path}: holds Python objects that could run code on loading; save its state_dict and try again"
            ) from None
        reason = "unreadable pickle" if "weights_only" in str(error) else first_line(error).partition(". ")[0]
        raise FormatError(f"{path}: damaged, or not a torch file ({reason})") from None


def _check_sums(path: Path) -> None:
    """Compare the checksums of a torch file, a zip archive, which `torch.load` itself does not."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        # torch stores without compression; anything else may unpack to any size
        stored = all(item.compress_type == zipfile.ZIP_STORED for item in archive.infolist())
        broken = archive.testzip() if stored else None
    if broken is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {broken}")


def strip_prefixes(state: dict[str, Any]) -> dict[str, Any]:
    """Drop `model.`, `module.` and `_orig_mod.` in front of all keys, however often wrapped."""
    while state and any(all(key.startswith(prefix) for key in state) for prefix in PREFIXES):
        prefix = next(prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in state))
        state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def load_weights(model: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load a state_dict into `model`, with a one-line error when it belongs to another net.

    Learnable quantizer parameters are dropped with one notice when the model has no such quantizer.

    Raises:
        CheckpointError: missing, unexpected or differently shaped tensors.
    """
    own = model.state_dict()
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise CheckpointError(f"{source}: belongs to another net: not a mapping of names to tensors")
    names = strip_prefixes({key: key for key in own})  # a net may keep all its layers under `self.model`
    state = {names.get(key, key): value for key, value in strip_prefixes(state).items()}
    dropped = [key for key in state if key not in own and "quantizer." in key]
    if dropped:
        warnings.warn(f"{source}: dropped {len(dropped)} quantizer parameters, first {dropped[0]!r}", stacklevel=2)
        state = {key: value for key, value in state.items() if key not in dropped}
    for key in own:
        if key not in state:
            raise CheckpointError(f"{source}: belongs to another net: {key!r} is missing")
        if state[key].shape != own[key].shape:
            raise CheckpointError(
                f"{source}: belongs to another net: {key!r} has shape {tuple(state[key].shape)}, "
                f"the model wants {tuple(own[key].shape)}"
            )
    extra = [key for key in state if key not in own]
    if extra:
        raise CheckpointError(f"{source}: belongs to another net: {extra[0]!r} is not in the model")
    model.load_state_dict(state)


def save_weights(path: Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write the state_dict as safetensors, with `facts` as JSON under the metadata key "onebit"."""
    # cloned, as safetensors refuses tensors that share memory: a layer that stands in two places
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    data = safetensors.torch.save(tensors, metadata={"onebit": json.dumps(facts)})
    with uninterrupted():
        write_atomic(path, data)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict, facts) of a safetensors file; `facts` is empty for a file that onebit did not write.

    Raises:
        FormatError: unreadable or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("onebit", "{}"))
            if not isinstance(facts, dict):
                raise TypeError("its facts are no mapping")
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise FormatError(f"{path}: damaged, or not a safetensors file ({error})") from None
