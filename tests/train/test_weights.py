"""Weight files and checkpoints: round trips, damaged and hostile files."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from onebit.errors import CheckpointError, FormatError
from onebit.layers import BinaryLinear, binarize_
from onebit.nets import shipped_path
from onebit.train.weights import load_weights, read_state, read_torch_file, read_weights, save_weights, strip_prefixes
from support.toy_training import CASES, DATA, build, flat


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint of the case "sign"."""
    folder = tmp_path_factory.mktemp("good")
    build(CASES["sign"]).fit(DATA, folder)
    return folder / "last.ckpt"


# -------------------------------------------------------------------------------------------------------- which format
@pytest.mark.parametrize("length", [640, 19280, 65536 + 640])
def test_a_safetensors_header_length_may_look_like_a_pickle_or_a_zip(tmp_path: Path, length: int) -> None:
    """Its length, in the first 8 bytes, may be any multiple of 8: of 640 they are 0x80 0x02, of 19280 they spell PK."""
    state = {"fc.weight": torch.ones(3, 4)}
    path = tmp_path / "net.bin"
    filler = 0
    while True:  # a longer fact makes a longer header
        data = safetensors.torch.save(state, metadata={"onebit": json.dumps({"epoch": 7, "filler": "x" * filler})})
        found = int.from_bytes(data[:8], "little")
        if found >= length:
            break
        filler += max(1, length - found - 8)
    assert found == length
    path.write_bytes(data)
    loaded, facts = read_state(path)
    assert torch.equal(loaded["fc.weight"], state["fc.weight"])
    assert facts["epoch"] == 7


@pytest.mark.parametrize("form", ["zip", "pickle 2", "pickle 3"])
def test_a_torch_file_is_recognized(tmp_path: Path, form: str) -> None:
    path, state = tmp_path / "net.bin", {"fc.weight": torch.ones(3, 4)}
    kind, _, protocol = form.partition(" ")
    torch.save(
        {"state_dict": state, "epoch": 7},
        path,
        pickle_protocol=int(protocol or 2),
        _use_new_zipfile_serialization=kind == "zip",
    )
    loaded, facts = read_state(path)
    assert torch.equal(loaded["fc.weight"], state["fc.weight"])
    assert facts["epoch"] == 7


# ---------------------------------------------------------------------------------------------------- hostile, damaged
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 0", "pickle 5", "in a checkpoint"])
def test_a_malicious_pickle_is_refused_and_does_not_run(checkpoint: Path, tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "last.ckpt", tmp_path / "it-ran"
    evil = Evil(mark)
    if form == "zip":
        torch.save(evil, path)
    elif form == "legacy":
        torch.save({"format": 1, "x": evil}, path, _use_new_zipfile_serialization=False)
    elif form == "in a checkpoint":
        torch.save(torch.load(checkpoint, weights_only=True) | {"rows": [evil]}, path)
    else:
        path.write_bytes(pickle.dumps(evil, protocol=int(form[-1])))
    with pytest.raises(FormatError):
        build(CASES["sign"]).fit(DATA, tmp_path, resume=True)
    assert not mark.exists()
    pickle.loads(pickle.dumps(evil))  # it does work
    assert mark.exists()


@pytest.mark.parametrize("version", [1, None])
def test_another_format_is_refused(checkpoint: Path, tmp_path: Path, version: int | None) -> None:
    torch.save(torch.load(checkpoint, weights_only=True) | {"format": version}, tmp_path / "last.ckpt")
    with pytest.raises(FormatError, match="version"):
        build(CASES["sign"]).fit(DATA, tmp_path, resume=True)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_flipped_bit_of_a_checkpoint_is_detected(checkpoint: Path, tmp_path: Path, share: float) -> None:
    """In the weights too: `torch.load` does not check the checksums in the file."""
    path = tmp_path / "last.ckpt"
    held = bytearray(checkpoint.read_bytes())
    with zipfile.ZipFile(checkpoint) as archive:
        entry = max(archive.infolist(), key=lambda item: item.file_size)
        start, size = held.index(archive.read(entry)), entry.file_size
    held[start + int(share * size)] ^= 1
    path.write_bytes(bytes(held))
    with pytest.raises(FormatError, match="damaged"):
        build(CASES["sign"]).fit(DATA, tmp_path, resume=True)


PARTS = ("model", "optimizer", "schedule", "rng", "generators", "rows", "setting", "threads")
WRONG = [(key, value) for key in PARTS for value in ("missing", "text", {"a": 1})]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=str)
def test_a_wrong_part_of_a_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, key: str, value: Any) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state[key] = value
    if value == "missing":
        del state[key]
    path = tmp_path / "last.ckpt"
    torch.save(state, path)
    with pytest.raises(CheckpointError):
        build(CASES["sign"]).fit(DATA, tmp_path, resume=True)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for read in (read_torch_file, read_weights):
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(FormatError):
                read(path)


# ------------------------------------------------------------------------------------------------------------- weights
def test_weights_and_facts_come_back(tmp_path: Path) -> None:
    model = build(CASES["sign"]).model
    save_weights(tmp_path / "w.safetensors", model, {"epoch": 3, "error": 0.25, "recipe": {"a": [1, None]}})
    state, facts = read_weights(tmp_path / "w.safetensors")
    assert facts == {"epoch": 3, "error": 0.25, "recipe": {"a": [1, None]}}
    assert flat(state) == flat(dict(sorted(model.state_dict().items())))
    before = (tmp_path / "w.safetensors").read_bytes()
    save_weights(tmp_path / "w.safetensors", model, {"epoch": 3, "error": 0.25, "recipe": {"a": [1, None]}})
    assert (tmp_path / "w.safetensors").read_bytes() == before


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names of files are text there")
def test_the_folder_may_have_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"r\xff")
    folder.mkdir()
    save_weights(folder / "w.safetensors", build(CASES["sign"]).model, {"epoch": 3})
    assert read_state(folder / "w.safetensors")[1] == {"epoch": 3}


def test_a_layer_in_two_places_can_be_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    model = binarize_(nn.Sequential(layer, nn.ReLU(), layer)).model
    save_weights(tmp_path / "w", model, {})
    state, _ = read_weights(tmp_path / "w")
    assert flat(state) == flat(dict(sorted(model.state_dict().items())))


def test_a_file_of_another_program_has_no_facts(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.ones(2)}, tmp_path / "w", metadata={"format": "pt"})
    state, facts = read_weights(tmp_path / "w")
    assert facts == {}
    assert state["weight"].tolist() == [1, 1]


def test_a_packed_net_is_not_trained_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(shipped_path("mnist-mlp").read_bytes())
    with pytest.raises(FormatError, match="packed"):
        read_weights(path)


# ----------------------------------------------------------------------------------------------------- foreign weights
def net() -> nn.Sequential:
    return nn.Sequential(BinaryLinear(3, 2), nn.BatchNorm1d(2))


class Wrapped(nn.Module):
    """Keeps everything under `self.model`, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = net()


@pytest.mark.parametrize(
    ("prefix", "kind"), [("", Wrapped), ("module._orig_mod.", net), ("model.model.", Wrapped), ("model.", net)]
)
def test_prefixes_of_wrappers_do_not_matter(prefix: str, kind: Callable[[], nn.Module]) -> None:
    source, target = net(), kind()
    with torch.no_grad():
        source[0].weight.fill_(0.5)
    load_weights(target, {prefix + key: value for key, value in source.state_dict().items()}, source="x")
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), source.parameters(), strict=True))


def test_prefixes_are_dropped_only_if_all_keys_have_them() -> None:
    assert strip_prefixes({"model.a": 1, "model.b": 2}) == {"a": 1, "b": 2}
    assert strip_prefixes({"model.a": 1, "other.b": 2}) == {"model.a": 1, "other.b": 2}


def test_parameters_of_missing_quantizers_are_dropped_with_one_warning() -> None:
    state = net().state_dict() | {"0.weight_quantizer.a": torch.ones(2), "0.input_quantizer.b": torch.ones(1)}
    model = net()
    with pytest.warns(UserWarning, match="2 quantizer") as caught:
        load_weights(model, state, source="x")
    assert len(caught) == 1
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"0.weight": None}, "0.weight"),
        ({"0.weight": torch.zeros(2, 4)}, "0.weight"),
        ({"2.weight": torch.zeros(2)}, "2.weight"),
    ],
)
def test_weights_of_another_net_are_refused_and_nothing_is_loaded(change: dict[Any, Any], name: str) -> None:
    model = net()
    before = flat(model.state_dict())
    state = {key: value + 1 for key, value in model.state_dict().items()} | change
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(CheckpointError, match=name):
        load_weights(model, state, source="x")
    assert flat(model.state_dict()) == before


# ------------------------------------------------------------------------------------------------------------- threads
def test_other_threads_may_save(tmp_path: Path) -> None:
    """Python allows signal handlers in the main thread only."""
    thread = threading.Thread(target=save_weights, args=(tmp_path / "w", net(), {}))
    thread.start()
    thread.join()
    assert read_weights(tmp_path / "w")[1] == {}
