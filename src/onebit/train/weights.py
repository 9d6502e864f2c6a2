"""Weight files: written as safetensors, read from several formats without running code of the file."""

from __future__ import annotations

import io
import json
import pickletools
import warnings
import zipfile
from collections.abc import Collection
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from onebit.common.files import open_regular, write_atomic
from onebit.common.safetensors_file import facts_of
from onebit.common.signals import uninterrupted
from onebit.common.torch_private import COMPILED
from onebit.errors import CheckpointError, FormatError, UsageError
from onebit.layers import latent_keys
from onebit.nets import SUFFIX, nearest_net
from onebit.train.history import WEIGHT_FILES

PREFIXES = (f"{COMPILED}.", "module.", "model.")
STATE_KEYS = ("state_dict", "model_state_dict", "model")
PICKLES = 5
"""Number of pickles in a torch file of the oldest format: magic number, version, machine, objects, tensor names."""
MAX_INSTRUCTIONS = 2_000_000
"""Limit for the pickles of a torch file; the checkpoint of a ResNet-20 has 11,000."""


def weight_file(path: Path) -> Path:
    """The weight file of a run folder, or the file itself; UsageError if there is none."""
    if path.is_file():
        return path
    for name in (*WEIGHT_FILES, "last.ckpt"):
        if (path / name).is_file():
            return path / name
    reason = f"holds no weights ({', '.join(WEIGHT_FILES)})"
    raise UsageError(f"{path}: {reason if path.exists() else f'no such run folder or file{nearest_net(path)}'}")


def read_state(path: Path, data: bytes | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict, facts) of any weight file: safetensors, a plain torch file, or a training checkpoint.

    A torch file may hold the state_dict itself or under "state_dict", "model_state_dict" or "model"; wrapper prefixes
    are dropped. Facts are the other entries: epoch, accuracy, recipe. A checkpoint with a moving average gives the
    average.

    Args:
        data: the bytes of the file, if already read.
    """
    data = read_bytes(path) if data is None else data
    # the length of a safetensors header may look like a zip or a pickle, but its JSON begins at byte 8
    if data[8:9] == b"{" or not data.startswith((b"PK", b"\x80")):
        state, facts = read_weights(path, data)
    else:
        content, facts = read_torch_file(path, data), {}
        content = content if isinstance(content, dict) else {}
        inner = next((content[k] for k in STATE_KEYS if isinstance(content.get(k), dict)), None)
        if inner is not None:
            facts = {k: v for k, v in content.items() if isinstance(v, (str, int, float))}
            # `fit` saves the moving average in the end
            content = average if isinstance(average := content.get("average"), dict) else inner
        state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    wrong = [name for name, tensor in state.items() if not isinstance(name, str) or is_unusual_storage(tensor)]
    if wrong or not state:
        raise FormatError(f"{path}: holds no plain tensors by name{f', such as {wrong[0]!r}' if wrong else ''}")
    return strip_prefixes(state), facts


def is_unusual_storage(tensor: Tensor, *, empty: bool = False) -> bool:
    """Whether a tensor is sparse, quantized, without memory or larger than its memory, or, unless `empty`, empty."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or (0 in tensor.shape and not empty):
        return True
    return (tensor.storage_offset() + tensor.numel()) * tensor.element_size() > tensor.untyped_storage().nbytes()


def read_torch_file(path: Path, data: bytes | None = None) -> Any:
    """The content of a `.pth`/`.pt`/`.ckpt` file, or of its bytes, loaded without running code of the file."""
    data = read_bytes(path) if data is None else data
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles, which torch rejects
            _check_torch_file(data)
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, and advises to run the code of the file
        raise FormatError(f"{path}: damaged, or not a torch file of tensors and numbers") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of a weight file; FormatError if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from None


def _check_torch_file(data: bytes) -> None:
    """Check what `torch.load` does not: sizes and checksums of a zip archive, and the number of pickle instructions."""
    file = io.BytesIO(data)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        _check_pickles(file)  # the oldest format: pickles, then the values of the tensors
        return
    with zipfile.ZipFile(file) as archive:
        items = archive.infolist()
        # torch does not compress; other archives may unpack to any size
        if sum(item.file_size for item in items) > len(data) or archive.testzip():
            raise ValueError("holds compressed, overlapping or damaged parts")
        for item in items:
            if item.filename.lower().endswith(".pkl"):
                _check_pickles(io.BytesIO(archive.read(item)))


def _check_pickles(stream: BinaryIO) -> None:
    """Raise FormatError for too many pickle instructions, as each may take memory; reading stops at the limit."""
    instructions = chain.from_iterable(pickletools.genops(stream) for _ in range(PICKLES))
    with suppress(ValueError, LookupError):  # not a pickle, or a damaged one, which torch rejects
        for count, _ in enumerate(instructions):
            if count == MAX_INSTRUCTIONS:
                raise FormatError(f"a pickle of more than {MAX_INSTRUCTIONS:,} instructions")


def strip_prefixes(state: dict[str, Any]) -> dict[str, Any]:
    """Drop `model.`, `module.` and `_orig_mod.` in front of all keys, repeatedly."""
    while state and (common := [prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in state)]):
        state = {key.removeprefix(common[0]): value for key, value in state.items()}
    return state


def load_weights(
    model: nn.Module, state: dict[str, Tensor], *, source: str, start: bool = False, anew: Collection[str] = ()
) -> None:
    """Load a state_dict into `model`; CheckpointError if it belongs to another net.

    Parameters of quantizers that the model lacks are dropped, with one warning.

    Args:
        start: at the start of training: BatchNorm, biases and codings that `state` lacks keep their initial values,
            with one warning. So do the last layer and what follows it, if `state` has another number of outputs.
        anew: names of tensors that keep their initial values.
    """
    current = model.state_dict()
    names = strip_prefixes({key: key for key in current})  # a net may keep all its layers under `self.model`
    names |= {latent.plain_key: key for key, latent in latent_keys(model, shared=True).items()}
    state = {names.get(key, key): value for key, value in strip_prefixes(state).items()}
    if dropped := [key for key in state if key not in current and "quantizer." in key]:
        warnings.warn(f"{source}: dropped {len(dropped)} quantizer parameters, first {dropped[0]!r}", stacklevel=2)
        state = {key: value for key, value in state.items() if key not in dropped}
    # training cannot start without the weight matrices
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    kept = [key for key in current if start and key not in state and key not in matrices]
    state = state | {key: current[key] for key in (*kept, *anew)}
    if start and (last := _other_outputs(current, state, matrices)):
        warnings.warn(f"{source}: {last[0]!r} has another number of outputs and begins anew", stacklevel=2)
        state = state | {key: current[key] for key in last}
    for key in {**current, **state}:
        found, expected = (tuple(each[key].shape) if key in each else "none" for each in (state, current))
        if found != expected:
            raise CheckpointError(f"{source}: belongs to another net: {key!r} has shape {found}, expected {expected}")
    if kept:
        text = f"{source}: lacks {len(kept)} tensors, which keep their initial values; first {kept[0]!r}"
        warnings.warn(text, stacklevel=2)
    model.load_state_dict(state)


def _other_outputs(current: dict[str, Tensor], state: dict[str, Tensor], matrices: set[str]) -> list[str]:
    """The tensors from the last weight matrix on, if only its number of outputs differs; else none."""
    keys = list(current)
    tail = keys[max(map(keys.index, matrices), default=len(keys)) :]
    same = all(key in state and state[key].shape[1:] == current[key].shape[1:] for key in tail)
    return tail if tail and same and state[tail[0]].shape != current[tail[0]].shape else []


def save_weights(path: Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write the state_dict as safetensors, with `facts` as JSON under the metadata key "onebit".

    safetensors sorts the tensors: the facts also store their "order" in the net, and which are "latents". They have one
    key, because safetensors writes several keys in random order.
    """
    # cloned: safetensors does not save tensors that share memory, such as those of a layer that is used twice
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    latents = list(latent_keys(model))
    stored = json.dumps({**facts, "order": list(tensors), "latents": latents})
    data = safetensors.torch.save(tensors, metadata={"onebit": stored})
    with uninterrupted():
        write_atomic(path, data)


def read_weights(path: Path, data: bytes | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict, facts) of a safetensors file, or of its bytes; `facts` is empty for files of other programs."""
    data = read_bytes(path) if data is None else data
    try:
        facts = facts_of(data)
        if "nodes" in facts:
            raise FormatError(f"{path}: is a packed net ({SUFFIX}), expected trained weights")
        tensors = safetensors.torch.load(data)
        order = {name: index for index, name in enumerate(facts.pop("order", []))}
        facts.pop("latents", None)
        return {name: tensors[name] for name in sorted(tensors, key=lambda name: order.get(name, len(order)))}, facts
    except (safetensors.SafetensorError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged, or not a safetensors file ({error})") from None
