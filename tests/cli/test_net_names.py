"""Verbs take the name of a net that comes with onebit wherever they take a packed net."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from onebit.nets import FOLDER
from support.command_line import Onebit, loaded_modules

NAME = "mnist-mlp"
IMAGE = "two.png"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a copy of the net and an image."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / f"{NAME}.1bit", "copy.1bit")
    Image.fromarray(np.tri(28, dtype=np.uint8) * 200).save(IMAGE)
    return tmp_path


@pytest.mark.parametrize(
    ("verb", "rest"),
    [
        ("predict", [IMAGE]),
        ("inspect", []),
        ("summary", []),
        ("evaluate", ["--dataset", "mnist-sample"]),
        ("export", ["--to", "c", "-o", "c"]),
        ("verify", []),
        ("bench", ["--rounds", "1", "--seconds", "0.001", "--batches", "1"]),
    ],
)
def test_a_verb_says_of_a_name_what_it_says_of_the_file(onebit: Onebit, verb: str, rest: list[str]) -> None:
    named, copied = (onebit(verb, net, *rest) for net in (NAME, "copy.1bit"))
    assert named.status == copied.status
    assert verb == "bench" or named.out.replace(NAME, "copy.1bit") == copied.out
    if verb != "verify":  # needs the whole test set
        assert named.status == 0
    assert str(FOLDER) not in named.out + named.err


def test_an_export_may_have_the_name_of_its_net(onebit: Onebit) -> None:
    done = onebit("export", NAME, "--to", "c", "-o", NAME, "--images", "1")
    assert done.status == 0, done.err
    assert (Path(NAME) / "net.h").is_file()


def test_no_torch_for_a_packed_net() -> None:
    commands = ["predict", NAME, IMAGE], ["inspect", NAME], ["summary", NAME]
    assert "torch" not in loaded_modules(*commands, ["evaluate", NAME, "--dataset", "mnist-sample"])


@pytest.mark.parametrize("verb", ["inspect", "evaluate"])
def test_a_packed_net_of_another_suffix_is_to_be_renamed(onebit: Onebit, verb: str) -> None:
    shutil.copy("copy.1bit", "net")
    done = onebit(verb, "net")
    assert (done.status, ".1bit" in done.line) == (2, True)


def test_names_in_an_answer_are_escaped(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor could clear the screen and print another verdict."""
    monkeypatch.setenv("COLUMNS", "200")
    forged = "\x1b[2J\x1b[Hforged: binary (safetensors file)\nfc.weight"
    save_file({forged: np.full((8, 8), 0.5, np.float32)}, "forged.safetensors")
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 2)}, "epoch": "\x1b[31m1\n2"}, "epoch.pt")
    shutil.copy("copy.1bit", "a\x1b[31m\n.1bit")
    for net, shown in (
        ("forged.safetensors", r"\x1b[2J\x1b[Hforged: binary (safetensors file)\nfc.weight"),
        ("epoch.pt", r"epoch: \x1b[31m1\n2"),
        ("a\x1b[31m\n.1bit", r"a\x1b[31m\n.1bit: "),
    ):
        out = onebit("inspect", net).out
        assert shown in out
        assert "\x1b" not in out
    Path(IMAGE).rename("b\n\x1b[2J.png")
    assert onebit("predict", NAME, "b\n\x1b[2J.png").out.startswith(r"b\n\x1b[2J.png: ")
