"""Every reader of files, fed with damaged and forged ones: it works, or refuses with one line; and never waits."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from onebit.__main__ import main
from onebit.data import load_dataset
from onebit.data.cifar import CIFAR10_FILES, read_file
from onebit.data.mnist import IdxFile, read_idx
from onebit.errors import LONGEST_MESSAGE, DataError, OnebitError, UsageError
from onebit.recipe import build_recipe, read_settings
from onebit.recipe.translations.json_config import flags_of, read_config
from onebit.report.run_folders import read_runs
from onebit.runs.run import open_run, start_folder, train_run
from onebit.verification.inspection import inspect_file
from support.covering import covering
from support.hostile_files import damaged, forged_values, mutated

SECONDS = 60
"""Far more than any of them needs; a reader that hangs is stopped."""
MEMORY = 1_500_000  # kB
TOY: dict[str, Any] = {
    **{"dataset": "toy", "validation": 256, "model": {"widths": [64, 8, 4]}, "epochs": 2, "batch_size": 1792},
    **{"device": "cpu", "threads": 1},
}
DATA = load_dataset("toy")


@contextmanager
def bounded() -> Iterator[None]:
    """Within the context nothing takes longer than SECONDS, or more memory than MEMORY beyond what there was."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def outcome(read: Callable[[], Any]) -> str:
    """ "read", or "refused" in one line; nothing else is a way out."""
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except OnebitError as error:
            text = str(error)
            assert "\n" not in text
            assert text.isprintable()
            assert len(text.partition("; known: ")[0]) < 500, text  # a list of the names that there are may follow
            assert len(text) <= LONGEST_MESSAGE
            return "refused"
    return "read"


# ------------------------------------------------------------------------------------------------------------- readers
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the data above."""
    folder = tmp_path_factory.mktemp("run") / "run"
    recipe = build_recipe(TOY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start_folder(folder, recipe, resume=False)
        train_run(recipe, DATA, folder)
    return folder


Case = tuple[bytes, Callable[[bytes, Path], Any]]


def recipe_yaml(run: Path) -> Case:
    def read(content: bytes, place: Path) -> None:
        path = place / "recipe.yaml"
        path.write_bytes(content)
        build_recipe(read_settings(path))

    return (run / "recipe.yaml").read_bytes(), read


def recipe_json(run: Path) -> Case:
    good = {"dataset": "mnist", "model_architecture": "BinaryConnect", "epochs": 5, "batch_size": 100,
            "lr_init": 0.01, "temperature": 1e-10, "input_shape": 784, "criterion": "crossentropy"}  # fmt: skip

    def read(content: bytes, place: Path) -> None:
        path = place / "config.json"
        path.write_bytes(content)
        config = read_config(path)
        if config is None:
            build_recipe(read_settings(path))
        else:
            flags = flags_of(config, source="x")
            build_recipe({}, {name: value for name, value in flags.items() if name != "method"})

    return json.dumps(good).encode(), read


def weight_file(run: Path) -> Case:
    def read(content: bytes, place: Path) -> None:
        path = place / "x.safetensors"
        path.write_bytes(content)
        inspect_file(path)
        open_run(path)

    return (run / "best.safetensors").read_bytes(), read


def weight_facts(run: Path) -> Case:
    """The recipe and the facts alone, in a file that is sound."""
    with safetensors.safe_open(run / "best.safetensors", framework="pt") as file:
        good, tensors = file.metadata()["onebit"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def read(content: bytes, place: Path) -> None:
        path = place / "x.safetensors"
        metadata = {"onebit": content.decode("utf-8", "replace")}
        path.write_bytes(safetensors.torch.save(tensors, metadata=metadata))
        open_run(path)

    return good.encode(), read


def torch_checkpoint(run: Path) -> Case:
    def read(content: bytes, place: Path) -> None:
        path = place / "x.pth"
        path.write_bytes(content)
        inspect_file(path)

    return (run / "last.ckpt").read_bytes(), read


def torch_pickle(run: Path) -> Case:
    """The pickle of a checkpoint alone, in an archive whose sums are right."""
    with zipfile.ZipFile(run / "last.ckpt") as archive:
        parts = {item.filename: archive.read(item) for item in archive.infolist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))

    def read(content: bytes, place: Path) -> None:
        path = place / "x.pth"
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
    def read(content: bytes, place: Path) -> None:
        for other in ("metrics.jsonl", "recipe.yaml", "result.json"):
            (place / other).write_bytes(content if other == name else (run / other).read_bytes())
        read_runs([place])

    return (run / name).read_bytes(), read


def image_folder(run: Path) -> Case:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(buffer, "PNG")
    good = buffer.getvalue()

    def read(content: bytes, place: Path) -> None:
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            path = place / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if name == "a/2.png" else good)
        load_dataset("folder", directory=place, input_size=8, workers=0, validation=0)

    return good, read


def npz(run: Path) -> Case:
    buffer = io.BytesIO()
    images, labels = np.zeros((8, 1, 4, 4), np.uint8), np.arange(8) % 2
    np.savez(buffer, train_images=images, train_labels=labels, test_images=images, test_labels=labels)

    def read(content: bytes, place: Path) -> None:
        (place / "x.npz").write_bytes(content)
        load_dataset("arrays", directory=place / "x.npz", validation=0)

    return buffer.getvalue(), read


def idx(run: Path) -> Case:
    def read(content: bytes, place: Path) -> None:
        (place / "x").write_bytes(content)
        read_idx(place / "x", IdxFile("x", (10, 4, 4), "0" * 64))

    return bytes(16 + 160), read


def cifar_binary(run: Path) -> Case:
    def read(content: bytes, place: Path) -> None:
        (place / "x.bin").write_bytes(content)
        read_file(place / "x.bin", CIFAR10_FILES, 2)

    return bytes(2 * 3073), read


def cifar_pickle(run: Path) -> Case:
    def read(content: bytes, place: Path) -> None:
        (place / "x").write_bytes(content)
        read_file(place / "x", CIFAR10_FILES, 2)

    good = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2], "batch_label": "x"}
    return pickle.dumps(good, protocol=2), read


READERS = [recipe_yaml, recipe_json, weight_file, weight_facts, torch_checkpoint, torch_pickle, result_json, metrics,
           image_folder, npz, idx, cifar_binary, cifar_pickle]  # fmt: skip


def fuzz(make: Callable[[Path], Case], run: Path, place: Path, count: int) -> None:
    good, read = make(run)
    assert make in (idx, cifar_binary, cifar_pickle) or outcome(lambda: read(good, place)) == "read"
    rng = random.Random(make.__name__)
    seen = set()
    for case in range(count):
        change = (mutated, damaged, forged_values)[case % 3]
        content = change(good, rng, header_only=False) if change is damaged else change(good, rng)
        seen.add(outcome(lambda: read(content, place)))  # noqa: B023
    assert "refused" in seen


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("make", READERS)
def test_damaged_files_are_read_or_refused(make: Callable[[Path], Case], run: Path, place: Path) -> None:
    fuzz(make, run, place, 60)


@pytest.mark.nightly
@pytest.mark.parametrize("make", READERS)
def test_a_thousand_damaged_files_are_read_or_refused(make: Callable[[Path], Case], run: Path, place: Path) -> None:
    fuzz(make, run, place, 1500)


# --------------------------------------------------------------------------------------------------------------- states
BOMBS: list[Any] = [[1], ["loop"]]
for _ in range(60):
    BOMBS[0] = [BOMBS[0], BOMBS[0]]  # 2⁶⁰ values, deep
BOMBS[1].append(BOMBS[1])
BOMBS.append([[[[[1] * 99] * 99] * 99] * 99])
STRANGE: list[Any] = [*BOMBS, {"a": [torch.zeros(2)]}, None, True, -1, 0, 10**18, 1e300, float("nan"), "x", [], {},
                      (1, 2), [[1]], {"a": 1}, b"ab", torch.zeros(()), torch.zeros(3, dtype=torch.int8),
                      torch.empty(2, device="meta"), torch.zeros(1).expand(10**12), torch.zeros(0)]  # fmt: skip


def places_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from places_of(item)


def resume_forged(run: Path, place: Path, count: int) -> None:
    """Go on from checkpoints in each of which one value is another one."""
    rng = random.Random(0)
    recipe = build_recipe(TOY)
    seen = []
    for case in range(count):
        state = torch.load(run / "last.ckpt", weights_only=True)
        state["rows"] = state["rows"][:1]
        part = rng.choice(sorted(state))  # each part as often as another one, however much it holds
        container, key = rng.choice([(state, part), *places_of(state[part])])
        container[key] = STRANGE[case % len(STRANGE)]
        torch.save(state, place / "last.ckpt")
        (place / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
        seen.append(outcome(lambda: train_run(recipe, DATA, place, resume=True)))
    assert "refused" in seen


@pytest.mark.parametrize("part", ["optimizer", "setting", "model"])
@pytest.mark.parametrize("bomb", range(len(BOMBS)))
def test_lists_in_lists_without_end_are_refused(run: Path, place: Path, part: str, bomb: int) -> None:
    state = torch.load(run / "last.ckpt", weights_only=True)
    state["rows"] = state["rows"][:1]
    for values in state["optimizer"]["state"].values() if part == "optimizer" else [state[part]]:
        values["more"] = BOMBS[bomb]
    torch.save(state, place / "last.ckpt")
    with bounded(), pytest.raises(OnebitError, match="values"):
        train_run(build_recipe(TOY), DATA, place, resume=True)


def test_states_of_another_kind_are_resumed_or_refused(run: Path, place: Path) -> None:
    resume_forged(run, place, 3 * len(STRANGE))


@pytest.mark.nightly
def test_a_thousand_states_of_another_kind_are_resumed_or_refused(run: Path, place: Path) -> None:
    resume_forged(run, place, 1500)


# -------------------------------------------------------------------------------------------------------------- crafted
def torch_file(pickled: bytes) -> bytes:
    """A torch file around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3")
    return buffer.getvalue()


@pytest.mark.parametrize(("instruction", "wrap"), covering(product([b"(", b"]", b"}", b"N"], [torch_file, bytes])))
def test_a_pickle_of_millions_of_instructions_is_refused(
    place: Path, instruction: bytes, wrap: Callable[[bytes], bytes]
) -> None:
    path = place / "x.pth"
    path.write_bytes(wrap(b"\x80\x02" + 30_000_000 * instruction + b"."))
    with bounded(), pytest.raises(OnebitError, match="damaged"):
        inspect_file(path)


def test_a_compressed_torch_file_is_refused(place: Path) -> None:
    with zipfile.ZipFile(place / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + 20_000_000 * b"(")
    with pytest.raises(OnebitError, match="damaged"):
        inspect_file(place / "x.pth")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.empty(3, device="meta"), "tensors"),
        (torch.zeros(1).expand(10**6, 10**6), "tensors"),
    ],
)
def test_tensors_without_values_are_refused(place: Path, tensor: torch.Tensor, message: str) -> None:
    torch.save({"weight": tensor}, place / "x.pth")
    with bounded(), pytest.raises(OnebitError, match=message):
        inspect_file(place / "x.pth")


BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)
RECIPES = {
    "nested": ("[" * 50_000, "nested more than 20 deep"),
    "nested text": ("model: {widths: '" + "[" * 1_500 + "'}", "model.widths"),
    "indented": ("".join(" " * i + "model:\n" for i in range(300)), "nested more than 20 deep"),
    "long": ("epochs: " + "1" * 40_000, "a value of 40,000 characters"),
    "sexagesimal": ("epochs: " + "1:" * 900, "a value of 1,7"),
    "large": ("#" * 200_000, "got 200,000 bytes, expected at most 100,000"),
    "many": ("- 1\n" * 20_000, "more than 5,000 keys and values"),
    "bomb": (BOMB, "anchors"),
    "tag": ("epochs: !!python/name:os.system", "tags"),
    "date": ("epochs: 2001-99-99", "not valid YAML or JSON"),
    "infinite": ("epochs: 1.0e+999", "epochs"),
    "words": ("x" * 900 + ": 1", "unknown field xxx"),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_crafted_recipes_are_refused_at_once(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, suffix: str
) -> None:
    text, message = RECIPES[name]
    path = place / f"x.{suffix}"
    path.write_text(text)
    with bounded():
        assert main(["train", str(path), "--out", str(place / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error.partition("; known: ")[0]) < 500
    if suffix == "yaml":
        assert message in error


# ---------------------------------------------------------------------------------------------------------------- pipes
RUN_FILES = ["recipe.yaml", "last.ckpt", "best.safetensors", "result.json", "metrics.jsonl", "log.txt"]


@pytest.mark.parametrize(("verb", "name"), covering(product(["train", "report", "evaluate"], RUN_FILES)))
@pytest.mark.filterwarnings("default:.*belongs to other weights")  # of the last epoch, where the best are a pipe
def test_a_pipe_in_a_run_folder_is_never_waited_for(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str], name: str, verb: str
) -> None:
    for path in run.iterdir():
        if path.is_file() and path.name != name:
            (place / path.name).write_bytes(path.read_bytes())
    os.mkfifo(place / name)
    command = {
        "train": ["train", "--resume", place],
        "report": ["report", place, "-o", place.parent / "report"],
        "evaluate": ["evaluate", place],
    }[verb]
    with bounded():
        status = main([str(word) for word in command])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if verb == "train":
        assert status == 2
        assert any(noun in error for noun in ("not a regular file", "no run there", name))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.yaml", "x.json", "x.1bit", "x.npz"])
def test_a_pipe_in_place_of_a_file_is_never_waited_for(
    place: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    os.mkfifo(place / name)
    commands = {".yaml": "train", ".json": "train"}
    flags = ["--dataset", "arrays", "--data", str(place / name)] if name == "x.npz" else [str(place / name)]
    verb = commands.get(Path(name).suffix, "train" if name == "x.npz" else "inspect")
    with bounded():
        assert main([verb, *flags, *(["--out", str(place / "run")] if verb == "train" else [])]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pipe_among_images_is_never_waited_for(run: Path, place: Path, workers: int) -> None:
    good, read = image_folder(run)
    read(good, place)
    os.mkfifo(place / "a/pipe.png")
    with bounded(), pytest.raises(DataError, match=r"a/pipe\.png: .*not a regular file"):
        load_dataset("folder", directory=place, input_size=8, workers=workers, validation=0)
    with bounded():
        load_dataset("folder", directory=place, input_size=8, workers=workers, validation=0, skip_broken=True)


# ---------------------------------------------------------------------------------------------------------------- words
def test_a_log_that_is_a_link_is_not_followed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "run").mkdir()
    (place / "elsewhere").write_text("mine\n")
    (place / "run" / "log.txt").symlink_to(place / "elsewhere")
    flags = ["--dataset", "toy", "--model.widths", "[64,8,4]", "--epochs", "1", "--out", str(place / "run")]
    assert main(["train", *flags]) == 2
    assert "log.txt" in capsys.readouterr().err
    assert (place / "elsewhere").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "../../evil"], "name"),
        (["--name", ""], "name"),
        (["--name", "a" * 300], "name"),
        (["--data", "nowhere"], "data set 'toy' is part of onebit: leave out --data nowhere"),
        (["--model.widths", "[64,9999999,9999999,4]"], "of memory"),
        (["--model.widths", "[64,99999999999999999999999,4]"], "two or more positive numbers"),
        (["--model", "x" * 5_000], "unknown model 'xxx"),
        (["x" * 5_000], "unknown recipe 'xxx"),
        (["--" + "x" * 5_000], "unknown option --xxx"),
    ],
)
def test_strange_words_are_refused_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(place)
    words = ["train", *arguments] if arguments[0].startswith("xx") else ["train", "--dataset", "toy", *arguments]
    with bounded():
        assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert len(error) < 1_100
    assert list(place.parent.glob("**/recipe.yaml")) == []


@pytest.mark.parametrize("draws", ["99999999999999999999", "1000001", "0"])
def test_an_ensemble_without_end_is_refused(run: Path, capsys: pytest.CaptureFixture[str], draws: str) -> None:
    assert main(["evaluate", str(run), "--weights", f"ensemble:{draws}"]) == 2
    assert "ensemble:N with N up to 1,000,000" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "report", "pack", "evaluate"])
def test_a_link_that_leads_to_itself_is_refused(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    loop = place / "loop.1bit"
    loop.symlink_to(loop)
    command = {
        "train": ["train", "--dataset", "toy", "--epochs", "1", "--out", loop],
        "report": ["report", run, "-o", loop],
        "pack": ["pack", run, "-o", loop / "x.1bit"],
        "evaluate": ["evaluate", loop / "x"],
    }[verb]
    assert main([str(word) for word in command]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert loop.is_symlink()


def test_every_message_is_one_line_of_bounded_length() -> None:
    error = UsageError("x" * 10**5 + "\n\x1b[2J; choose another")
    assert len(str(error)) < 500
    assert str(error).isprintable()
    assert str(error).endswith("; choose another")
    assert len(str(UsageError("a; " * 10**5))) <= LONGEST_MESSAGE


@pytest.mark.parametrize("values", [(-1e38, 3.4e38), (0.0, 1e-45), (3e38, 3e38)])
def test_weights_at_the_ends_of_float32_are_inspected(place: Path, values: tuple[float, float]) -> None:
    torch.save({"weight": torch.tensor([values, values])}, place / "x.pth")
    assert inspect_file(place / "x.pth").layers[0].high == pytest.approx(values[1])
