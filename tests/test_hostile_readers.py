"""Readers of files, fed with damaged and forged ones: each reads or refuses with one line, in bounded time."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from onebit.data import load_dataset
from onebit.data.cifar import CIFAR10_FILES, read_file
from onebit.data.mnist import IdxFile, read_idx
from onebit.errors import OnebitError
from onebit.recipe import build_recipe, read_settings
from onebit.recipe.translations.json_config import flags_of, read_config
from onebit.report.run_folders import read_runs
from onebit.runs.folder import RunFolder
from onebit.runs.opening import open_run
from onebit.runs.run import train_run
from onebit.verification.inspection import inspect_file
from support.hostile_files import damaged, forged_values, mutated
from support.hostile_runs import DATA, TOY, bounded, folder, outcome, run

__all__ = ["folder", "run"]

Case = tuple[bytes, Callable[[bytes, Path], Any]]


def recipe_yaml(run: Path) -> Case:
    def read(content: bytes, folder: Path) -> None:
        path = folder / "recipe.yaml"
        path.write_bytes(content)
        build_recipe(read_settings(path))

    return (run / "recipe.yaml").read_bytes(), read


def recipe_json(run: Path) -> Case:
    good = {"dataset": "mnist", "model_architecture": "BinaryConnect", "epochs": 5, "batch_size": 100,
            "lr_init": 0.01, "temperature": 1e-10, "input_shape": 784, "criterion": "crossentropy"}  # fmt: skip

    def read(content: bytes, folder: Path) -> None:
        path = folder / "config.json"
        path.write_bytes(content)
        config = read_config(path)
        if config is None:
            build_recipe(read_settings(path))
        else:
            flags = flags_of(config, source="x")
            build_recipe({}, {name: value for name, value in flags.items() if name != "method"})

    return json.dumps(good).encode(), read


def weight_file(run: Path) -> Case:
    def read(content: bytes, folder: Path) -> None:
        path = folder / "x.safetensors"
        path.write_bytes(content)
        inspect_file(path)
        open_run(path)

    return (run / "best.safetensors").read_bytes(), read


def weight_facts(run: Path) -> Case:
    """The recipe and the facts alone, in a file that is sound."""
    with safetensors.safe_open(run / "best.safetensors", framework="pt") as file:
        good, tensors = file.metadata()["onebit"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def read(content: bytes, folder: Path) -> None:
        path = folder / "x.safetensors"
        metadata = {"onebit": content.decode("utf-8", "replace")}
        path.write_bytes(safetensors.torch.save(tensors, metadata=metadata))
        open_run(path)

    return good.encode(), read


def torch_checkpoint(run: Path) -> Case:
    def read(content: bytes, folder: Path) -> None:
        path = folder / "x.pth"
        path.write_bytes(content)
        inspect_file(path)

    return (run / "last.ckpt").read_bytes(), read


def torch_pickle(run: Path) -> Case:
    """The pickle of a checkpoint alone, in an archive whose sums are right."""
    with zipfile.ZipFile(run / "last.ckpt") as archive:
        parts = {item.filename: archive.read(item) for item in archive.infolist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))

    def read(content: bytes, folder: Path) -> None:
        path = folder / "x.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, content if name == pickled else part)
        inspect_file(path)

    return parts[pickled], read


def result_json(run: Path) -> Case:
    return _of_run(run, "result.json")


def metrics(run: Path) -> Case:
    return _of_run(run, "metrics.jsonl")


def _of_run(run: Path, name: str) -> Case:
    def read(content: bytes, folder: Path) -> None:
        for other in ("metrics.jsonl", "recipe.yaml", "result.json"):
            (folder / other).write_bytes(content if other == name else (run / other).read_bytes())
        read_runs([folder])

    return (run / name).read_bytes(), read


def image_folder(run: Path) -> Case:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(buffer, "PNG")
    good = buffer.getvalue()

    def read(content: bytes, folder: Path) -> None:
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if name == "a/2.png" else good)
        load_dataset("folder", directory=folder, input_size=8, workers=0, validation=0)

    return good, read


def npz(run: Path) -> Case:
    buffer = io.BytesIO()
    images, labels = np.zeros((8, 1, 4, 4), np.uint8), np.arange(8) % 2
    np.savez(buffer, train_images=images, train_labels=labels, test_images=images, test_labels=labels)

    def read(content: bytes, folder: Path) -> None:
        (folder / "x.npz").write_bytes(content)
        load_dataset("arrays", directory=folder / "x.npz", validation=0)

    return buffer.getvalue(), read


def idx(run: Path) -> Case:
    def read(content: bytes, folder: Path) -> None:
        (folder / "x").write_bytes(content)
        read_idx(folder / "x", IdxFile("x", (10, 4, 4), "0" * 64))

    return bytes(16 + 160), read


def cifar_binary(run: Path) -> Case:
    def read(content: bytes, folder: Path) -> None:
        (folder / "x.bin").write_bytes(content)
        read_file(folder / "x.bin", CIFAR10_FILES, 2)

    return bytes(2 * 3073), read


def cifar_pickle(run: Path) -> Case:
    def read(content: bytes, folder: Path) -> None:
        (folder / "x").write_bytes(content)
        read_file(folder / "x", CIFAR10_FILES, 2)

    good = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2], "batch_label": "x"}
    return pickle.dumps(good, protocol=2), read


READERS = [recipe_yaml, recipe_json, weight_file, weight_facts, torch_checkpoint, torch_pickle, result_json, metrics,
           image_folder, npz, idx, cifar_binary, cifar_pickle]  # fmt: skip


def fuzz(make: Callable[[Path], Case], run: Path, folder: Path, count: int) -> None:
    good, read = make(run)
    assert make in (idx, cifar_binary, cifar_pickle) or outcome(lambda: read(good, folder)) == "read"
    rng = random.Random(make.__name__)
    seen = set()
    for case in range(count):
        change = (mutated, damaged, forged_values)[case % 3]
        content = change(good, rng, header_only=False) if change is damaged else change(good, rng)
        seen.add(outcome(lambda: read(content, folder)))  # noqa: B023
    assert "refused" in seen


@pytest.mark.parametrize("make", READERS)
def test_damaged_files_are_read_or_refused(make: Callable[[Path], Case], run: Path, folder: Path) -> None:
    fuzz(make, run, folder, 24)


@pytest.mark.nightly
@pytest.mark.parametrize("make", READERS)
def test_a_thousand_damaged_files_are_read_or_refused(make: Callable[[Path], Case], run: Path, folder: Path) -> None:
    fuzz(make, run, folder, 1500)


# --------------------------------------------------------------------------------------------------------------- states
BOMBS: list[Any] = [[1], ["loop"]]
for _ in range(60):
    BOMBS[0] = [BOMBS[0], BOMBS[0]]  # 2⁶⁰ values, deep
BOMBS[1].append(BOMBS[1])
BOMBS.append([[[[[1] * 99] * 99] * 99] * 99])
STRANGE: list[Any] = [*BOMBS, {"a": [torch.zeros(2)]}, None, True, -1, 0, 10**18, 1e300, float("nan"), "x", [], {},
                      (1, 2), [[1]], {"a": 1}, b"ab", torch.zeros(()), torch.zeros(3, dtype=torch.int8),
                      torch.empty(2, device="meta"), torch.zeros(1).expand(10**12), torch.zeros(0)]  # fmt: skip


def positions_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from positions_of(item)


def resume_forged(run: Path, folder: Path, count: int) -> None:
    """Go on from checkpoints in each of which one value is another one."""
    rng = random.Random(0)
    recipe = build_recipe(TOY)
    seen = []
    for case in range(count):
        state = torch.load(run / "last.ckpt", weights_only=True)
        state["rows"] = state["rows"][:1]
        part = rng.choice(sorted(state))  # each part as often as another one, however much it holds
        container, key = rng.choice([(state, part), *positions_of(state[part])])
        container[key] = STRANGE[case % len(STRANGE)]
        torch.save(state, folder / "last.ckpt")
        (folder / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
        seen.append(outcome(lambda: train_run(recipe, DATA, RunFolder(folder, resume=True))))
    assert "refused" in seen


@pytest.mark.parametrize("size", [0, -1, 10**12, 10**30])
def test_a_weight_file_with_images_of_no_sensible_size_is_refused(run: Path, folder: Path, size: int) -> None:
    content, read = weight_facts(run)
    facts = json.loads(content)
    with bounded(), pytest.raises(OnebitError, match="images"):
        read(json.dumps(facts | {"input_shape": [size, 8, 8]}).encode(), folder)


@pytest.mark.parametrize(
    ("part", "bomb"),
    [
        ("optimizer", BOMBS[0]),
        ("setting", BOMBS[1]),
        ("model", BOMBS[2]),
        ("setting", BOMBS[2]),
        ("setting", torch.zeros(1).expand(10**12)),
    ],
)
def test_values_without_end_in_a_checkpoint_are_refused(run: Path, folder: Path, part: str, bomb: Any) -> None:
    state = torch.load(run / "last.ckpt", weights_only=True)
    state["rows"] = state["rows"][:1]
    for values in state["optimizer"]["state"].values() if part == "optimizer" else [state[part]]:
        values["more"] = bomb
    torch.save(state, folder / "last.ckpt")
    with bounded(), pytest.raises(OnebitError, match="too many values"):
        train_run(build_recipe(TOY), DATA, RunFolder(folder, resume=True))


def test_states_of_another_kind_are_resumed_or_refused(run: Path, folder: Path) -> None:
    resume_forged(run, folder, len(STRANGE))


@pytest.mark.nightly
def test_a_thousand_states_of_another_kind_are_resumed_or_refused(run: Path, folder: Path) -> None:
    resume_forged(run, folder, 1500)
