"""All that reads a file of a stranger: good bytes, what reads them, and its type of error."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
from PIL import Image

import onebit
from onebit.data import load_dataset
from onebit.data.cifar import CIFAR10_FILES, read_file
from onebit.data.mnist import IdxFile, read_idx
from onebit.data.pickled import read_pickled
from onebit.errors import CheckpointError, DataError, FormatError, NotBinaryError, OnebitError, UsageError
from onebit.export import export_net
from onebit.language import load_language_model
from onebit.packed import dumps, loads
from onebit.packed.gguf_file import read_gguf
from onebit.recipe import build_recipe, read_settings
from onebit.recipe.translations.json_config import flags_of, read_config
from onebit.report.run_folders import read_runs
from onebit.runs.folder import RunFolder
from onebit.runs.opening import open_run
from onebit.runs.run import train_run
from onebit.runtime import run as run_net
from onebit.runtime.timing import noise
from onebit.train.weights import read_state, read_weights
from onebit.verification.foreign_files import inspect_foreign
from onebit.verification.inspection import inspect_file
from support.executors import EXECUTORS, bits_of, chosen
from support.gguf_models import write_every_kind, write_model
from support.hostile_files import damaged, reworded
from support.hostile_runs import DATA, TOY
from support.packed_nets import NETS, four_inputs, make_packed_mlp
from support.stand_in_models import language_model
from support.tiny_cifar import array, dictionary, numbers, text
from support.tiny_mnist import idx_header


class Reader(NamedTuple):
    """`good` makes bytes beside a finished run; `read` takes bytes, a folder for their file, and the run."""

    good: Callable[[Path], bytes]
    read: Callable[[bytes, Path, Path], Any]
    error: type[OnebitError] | tuple[type[OnebitError], ...] = FormatError
    change: Callable[[bytes, Random], bytes] = damaged


def stored(content: bytes, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def at(name: str, *readers: Callable[[Path], Any]) -> Callable[[bytes, Path, Path], None]:
    """What reads a file of this name."""

    def read(content: bytes, folder: Path, run: Path) -> None:
        for reader in readers:
            reader(stored(content, folder / name))

    return read


def of_run(name: str) -> Callable[[Path], bytes]:
    return lambda run: (run / name).read_bytes()


def written(write: Callable[[Path], Any], name: str = "good.gguf") -> Callable[[Path], bytes]:
    """The bytes of a file that a function writes."""

    def good(run: Path) -> bytes:
        write(run.with_name(name))
        return run.with_name(name).read_bytes()

    return good


# ---------------------------------------------------------------------------------------------------- recipes and runs
CONFIG = {"dataset": "mnist", "model_architecture": "BinaryConnect", "epochs": 5, "batch_size": 100, "lr_init": 0.01,
          "temperature": 1e-10, "input_shape": 784, "criterion": "crossentropy"}  # fmt: skip


def read_recipe(path: Path) -> None:
    config = read_config(path) if path.suffix == ".json" else None
    if config is None:
        build_recipe(read_settings(path))
    else:
        flags = flags_of(config, source="x")
        build_recipe({}, {name: value for name, value in flags.items() if name != "method"})


def facts_of(run: Path) -> bytes:
    """The recipe and the facts of a weight file."""
    with safetensors.safe_open(run / "best.safetensors", framework="pt") as file:
        return file.metadata()["onebit"].encode()


def read_facts(content: bytes, folder: Path, run: Path) -> None:
    """In a file that is sound."""
    tensors = safetensors.torch.load_file(run / "best.safetensors")
    metadata = {"onebit": content.decode("utf-8", "replace")}
    open_run(stored(safetensors.torch.save(tensors, metadata=metadata), folder / "x.safetensors"))


def parts_of(archive: Path) -> tuple[dict[str, bytes], str]:
    """The files of a checkpoint, and the name of its pickle."""
    with zipfile.ZipFile(archive) as opened:
        parts = {item.filename: opened.read(item) for item in opened.infolist()}
    return parts, next(name for name in parts if name.endswith("data.pkl"))


def pickle_of(run: Path) -> bytes:
    parts, name = parts_of(run / "last.ckpt")
    return parts[name]


def read_pickle(content: bytes, folder: Path, run: Path) -> None:
    """In an archive whose sums are right."""
    parts, pickled = parts_of(run / "last.ckpt")
    with zipfile.ZipFile(folder / "x.pth", "w") as archive:
        for name, part in (parts | {pickled: content}).items():
            archive.writestr(name, part)
    inspect_file(folder / "x.pth")


def in_run(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path, Path], None]:
    """What reads the folder of a run with other bytes in one file."""

    def changed(content: bytes, folder: Path, run: Path) -> None:
        for other in ("metrics.jsonl", "recipe.yaml", "result.json", name):
            stored(content if other == name else (run / other).read_bytes(), folder / other)
        read(folder)

    return changed


def read_report(folder: Path) -> None:
    read_runs([folder])


def resume(folder: Path) -> None:
    train_run(build_recipe(TOY), DATA, RunFolder(folder, resume=True))


# ---------------------------------------------------------------------------------------------------------------- data
def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def read_images(content: bytes, folder: Path, run: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        stored(content if name == "a/2.png" else png(), folder / name)
    load_dataset("folder", directory=folder, input_size=8, workers=0, validation=0)


def write_arrays(path: Path) -> None:
    images, labels = np.zeros((8, 1, 4, 4), np.uint8), np.arange(8) % 2
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def read_arrays(path: Path) -> None:
    load_dataset("arrays", directory=path, validation=0)


IDX = idx_header((10, 4, 4)) + bytes(160)


def read_digits(path: Path) -> None:
    assert not read_idx(path, IdxFile("x", (10, 4, 4), sha256(IDX).hexdigest())).any()


def read_colors(path: Path) -> None:
    read_file(path, CIFAR10_FILES, 2)


CIFAR = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2], "batch_label": "x"}
PICKLED = dictionary(batch_label=text("of 5"), labels=numbers([3, 255, 256]), data=array(np.zeros((4, 300), np.uint8)))


# ---------------------------------------------------------------------------------------------------------------- nets
def run_everywhere(content: bytes, folder: Path, run: Path) -> None:
    """All executors give the same bits or the same error: parameters of a valid file may overflow."""
    net, results = loads(content), []
    assert dumps(loads(dumps(net))) == dumps(net)
    for executor in EXECUTORS:
        with chosen(executor):
            try:
                answer = net.by_name(run_net(net, noise(net, 2)))
                results.append([bits_of(values.astype(np.float32)).tobytes() for values in answer.values()])
            except (FormatError, NotBinaryError) as error:
                results.append([type(error).__name__.encode()])
    assert all(result == results[0] for result in results)


def forged(good: bytes, rng: Random) -> bytes:
    return rng.choice([damaged, reworded])(good, rng)


PACKED = {
    "four inputs": four_inputs,
    **{f"mlp {form}": partial(make_packed_mlp, (12, 70, 10), form=form) for form in ("weight-only", "sign", "mixed")},
    **NETS,
}


def run_language_model(path: Path) -> None:
    model = load_language_model(path, threads=1, context=8)
    model.decoder.run(np.array([1, 2, 299 % model.net.vocabulary], np.int32), 0)
    assert len(model.tokenizer.texts) <= model.net.vocabulary
    model.tokenizer.bytes_of(1)


def read_values(path: Path) -> None:
    for tensor in read_gguf(path).tensors.values():
        tensor.values()


def write_language_model(path: Path) -> None:
    onebit.export_gguf(language_model(), path)


def write_onnx(path: Path) -> None:
    export_net(make_packed_mlp((12, 24, 10), form="sign"), "onnx", path)


SMALL = (128, 128, 1, 2, 1, 64, 300)
RUN = FormatError, CheckpointError, UsageError
READERS = {
    "recipe.yaml": Reader(of_run("recipe.yaml"), at("recipe.yaml", read_recipe), UsageError),
    "config.json": Reader(lambda run: json.dumps(CONFIG).encode(), at("config.json", read_recipe), UsageError),
    "weights": Reader(
        of_run("best.safetensors"), at("x.safetensors", inspect_file, read_weights, read_state, open_run), RUN
    ),
    "facts of weights": Reader(facts_of, read_facts, RUN),
    "checkpoint": Reader(of_run("last.ckpt"), at("x.pth", inspect_file, read_state)),
    "pickle of a checkpoint": Reader(pickle_of, read_pickle),
    "resumed checkpoint": Reader(of_run("last.ckpt"), in_run("last.ckpt", resume), RUN),
    "result.json": Reader(of_run("result.json"), in_run("result.json", read_report)),
    "metrics.jsonl": Reader(of_run("metrics.jsonl"), in_run("metrics.jsonl", read_report), (FormatError, DataError)),
    "image": Reader(lambda run: png(), read_images, DataError),
    "arrays": Reader(written(write_arrays, "good.npz"), at("x.npz", read_arrays), DataError),
    "idx": Reader(lambda run: IDX, at("x", read_digits), DataError),
    "idx, compressed": Reader(lambda run: gzip.compress(IDX, mtime=0), at("x.gz", read_digits), DataError),
    "cifar": Reader(lambda run: bytes(2 * 3073), at("x.bin", read_colors), DataError),
    "cifar pickle": Reader(lambda run: pickle.dumps(CIFAR, protocol=2), at("x", read_colors), DataError),
    "pickle": Reader(lambda run: PICKLED, at("x", partial(read_pickled, largest=100_000)), DataError),
    **{
        f"1bit {name}": Reader(lambda run, make=make: dumps(make()), run_everywhere, FormatError, forged)
        for name, make in PACKED.items()
    },
    "gguf": Reader(written(write_every_kind), at("x.gguf", read_values)),
    "gguf inspected": Reader(written(write_language_model), at("x.gguf", inspect_foreign)),
    "gguf run": Reader(written(partial(write_model, shape=SMALL)), at("x.gguf", run_language_model)),
    "onnx": Reader(written(write_onnx, "good.onnx"), at("x.onnx", inspect_foreign)),
}
