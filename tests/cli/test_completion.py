"""`onebit completion`: what the shells are told, and what bash makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from onebit.__main__ import VERBS
from onebit.recipe import flag_names, methods, recipe_names
from support.command_line import Onebit


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers in place of the last word."""
    ask = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _onebit; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", ask, str(script), *words], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.split()


@pytest.fixture
def script(onebit: Onebit, tmp_path: Path) -> Path:
    path = tmp_path / "onebit.bash"
    path.write_text(onebit("completion", "bash").out)
    return path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("onebit help ver", ["verify"]),
        ("onebit train mnist-fa", ["mnist-fast", "mnist-fast-large"]),
        ("onebit train mnist-fast --model.width", ["--model.width", "--model.widths"]),
        ("onebit train --method bayes", ["bayesbinn"]),
        ("onebit train --init_from membrane-", ["membrane-unet"]),
        ("onebit evaluate runs/x --split te", ["test"]),
        ("onebit predict membrane-", ["membrane-unet"]),
        ("onebit data memb", ["membrane"]),
        ("onebit pack runs/mn", []),  # files, by bash itself
    ],
)
def test_bash_completes_verbs_options_names_and_values(script: Path, words: str, offered: list[str]) -> None:
    assert completed(script, *words.split()) == offered


def test_everything_is_offered(script: Path) -> None:
    assert set(completed(script, "onebit", "")) == {*VERBS, "help"}
    flags = {f"--{name.removesuffix('.name')}" if name != "name" else "--name" for name in flag_names()}
    assert flags | {"--resume", "--out", "--json"} <= set(completed(script, "onebit", "train", "-"))
    assert completed(script, "onebit", "train", "") == recipe_names()
    assert completed(script, "onebit", "train", "--method", "") == sorted(methods())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_the_same_words(onebit: Onebit, shell: str) -> None:
    words = set(onebit("completion", shell).out.replace("'", " ").replace('"', " ").split())
    assert words >= {*VERBS, *recipe_names(), *methods()}
    assert words >= {"--model.widths", "--optimizer.lr", "--overwrite", "--split", "--output"}
