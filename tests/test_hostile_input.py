"""Crafted files, pipes, links and strange words: each is refused at once, in one line."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch

from onebit.__main__ import main
from onebit.data import load_dataset
from onebit.errors import MAX_MESSAGE_LENGTH, DataError, OnebitError, UsageError
from onebit.verification.inspection import inspect_file
from support.covering import covering
from support.hostile_runs import bounded, folder, run
from support.image_folders import write_class

__all__ = ["folder", "run"]


# -------------------------------------------------------------------------------------------------------------- crafted
def torch_file(pickled: bytes) -> bytes:
    """A torch file around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3")
    return buffer.getvalue()


@pytest.mark.parametrize(("instruction", "wrap"), [(b"(", torch_file), (b"]", bytes)])
def test_a_pickle_of_millions_of_instructions_is_refused(
    folder: Path, instruction: bytes, wrap: Callable[[bytes], bytes]
) -> None:
    path = folder / "x.pth"
    path.write_bytes(wrap(b"\x80\x02" + 2_500_000 * instruction + b"."))
    with bounded(), pytest.raises(OnebitError, match="damaged"):
        inspect_file(path)


def test_a_compressed_torch_file_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + 20_000_000 * b"(")
    with pytest.raises(OnebitError, match="damaged"):
        inspect_file(folder / "x.pth")


def test_tensors_without_values_are_refused(folder: Path) -> None:
    for tensor in (torch.empty(3, device="meta"), torch.zeros(1).expand(10**6, 10**6)):
        torch.save({"weight": tensor}, folder / "x.pth")
        with bounded(), pytest.raises(OnebitError, match="tensors"):
            inspect_file(folder / "x.pth")


BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)
RECIPES = {
    "nested": ("[" * 50_000, "deep"),
    "nested JSON": ('{"model": ' + "[" * 40_000 + "]" * 40_000 + "}", "deep"),
    "nested text": ("model: {widths: '" + "[" * 1_500 + "'}", "model.widths"),
    "indented": ("".join(" " * i + "model:\n" for i in range(300)), "deep"),
    "long": ("epochs: " + "x" * 40_000, "40,000"),
    "sexagesimal": ("epochs: " + "1:" * 900, "1,7"),
    "large": ("#" * 200_000, "200,000"),
    "many": ("- 1\n" * 20_000, "5,000"),
    "bomb": (BOMB, "anchors"),
    "tag": ("epochs: !!python/name:os.system", "tags"),
    "date": ("epochs: 2001-99-99", "YAML"),
    "infinite": ("epochs: 1.0e+999", "epochs"),
    "words": ("x" * 900 + ": 1", "xxx"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_crafted_recipes_are_refused_at_once(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text, noun = RECIPES[name]
    path = folder / ("x.json" if "JSON" in name else "x.yaml")
    path.write_text(text)
    with bounded():
        assert main(["train", str(path), "--out", str(folder / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error.partition("; known: ")[0]) < 500
    assert noun in error


# ---------------------------------------------------------------------------------------------------------------- pipes
RUN_FILES = ["recipe.yaml", "last.ckpt", "best.safetensors", "result.json", "metrics.jsonl", "log.txt"]


@pytest.mark.parametrize(("verb", "name"), covering(product(["train", "report", "evaluate"], RUN_FILES)))
@pytest.mark.filterwarnings("default:.*belongs to other weights")  # of the last epoch, where the best are a pipe
def test_a_pipe_in_a_run_folder_is_never_waited_for(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str], name: str, verb: str
) -> None:
    for path in run.iterdir():
        if path.is_file() and path.name != name:
            (folder / path.name).write_bytes(path.read_bytes())
    os.mkfifo(folder / name)
    command = {
        "train": ["train", "--resume", folder],
        "report": ["report", folder, "-o", folder.parent / "report"],
        "evaluate": ["evaluate", folder],
    }[verb]
    with bounded():
        status = main([str(word) for word in command])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if verb == "train":
        assert status == 2
        assert any(noun in error for noun in ("not a regular file", "no run there", name))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.yaml", "x.1bit", "x.npz"])
def test_a_pipe_in_folder_of_a_file_is_never_waited_for(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    os.mkfifo(folder / name)
    commands = {".yaml": "train"}
    flags = ["--dataset", "arrays", "--data", str(folder / name)] if name == "x.npz" else [str(folder / name)]
    verb = commands.get(Path(name).suffix, "train" if name == "x.npz" else "inspect")
    with bounded():
        assert main([verb, *flags, *(["--out", str(folder / "run")] if verb == "train" else [])]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_pipe_among_images_is_never_waited_for(folder: Path) -> None:
    for name in "ab":
        write_class(folder / name, 2)
    os.mkfifo(folder / "a/pipe.png")
    for workers in (0, 1):
        with bounded(), pytest.raises(DataError, match="pipe"):
            load_dataset("folder", directory=folder, input_size=8, workers=workers, validation=0)
    with bounded():
        load_dataset("folder", directory=folder, input_size=8, workers=0, validation=0, skip_broken=True)


# ---------------------------------------------------------------------------------------------------------------- words
def test_a_log_that_is_a_link_is_not_followed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    (folder / "elsewhere").write_text("mine\n")
    (folder / "run" / "log.txt").symlink_to(folder / "elsewhere")
    flags = ["--dataset", "toy", "--model.widths", "[64,8,4]", "--epochs", "1", "--out", str(folder / "run")]
    assert main(["train", *flags]) == 2
    assert "log.txt" in capsys.readouterr().err
    assert (folder / "elsewhere").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("arguments", "noun"),
    [
        (["--name", "../../evil"], "name"),
        (["--name", ""], "name"),
        (["--name", "a" * 300], "name"),
        (["--data", "nowhere"], "--data"),
        (["--model.widths", "[64,9999999,9999999,4]"], "memory"),
        (["--model.widths", "[64,99999999999999999999999,4]"], "widths"),
        (["--model", "x" * 5_000], "xxx"),
        (["x" * 5_000], "xxx"),
        (["--" + "x" * 5_000], "xxx"),
    ],
)
def test_strange_words_are_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], noun: str
) -> None:
    monkeypatch.chdir(folder)
    words = ["train", *arguments] if arguments[0].startswith("xx") else ["train", "--dataset", "toy", *arguments]
    with bounded():
        assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert noun in error
    assert len(error) < 1_100
    assert list(folder.parent.glob("**/recipe.yaml")) == []


@pytest.mark.parametrize("verb", ["train", "report", "pack", "evaluate"])
def test_a_link_that_leads_to_itself_is_refused(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    loop = folder / "loop.1bit"
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
    assert str(OnebitError("first\n  second\x1b[2J")) == r"first second\x1b[2J"
    error = UsageError("x" * 10**5 + "\n\x1b[2J; choose another")
    assert len(str(error)) < 500
    assert str(error).endswith("; choose another")
    assert len(str(UsageError("a; " * 10**5))) <= MAX_MESSAGE_LENGTH


@pytest.mark.parametrize("values", [(-1e38, 3.4e38), (0.0, 1e-45), (3e38, 3e38)])
def test_weights_at_the_ends_of_float32_are_inspected(folder: Path, values: tuple[float, float]) -> None:
    torch.save({"weight": torch.tensor([values, values])}, folder / "x.pth")
    assert inspect_file(folder / "x.pth").layers[0].high == pytest.approx(values[1])
