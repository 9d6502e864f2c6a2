"""The command itself: help, exit statuses, and what is not imported."""

from __future__ import annotations

import os
import re
import runpy
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import onebit as onebit_package
from onebit import __version__
from onebit.__main__ import VERBS, main
from onebit.recipe import flag_names
from support.command_line import Onebit, loaded_modules


def test_help_names_every_verb_and_imports_nothing(onebit: Onebit) -> None:
    done = onebit("--help")
    assert done.status == 0
    assert all(verb in done.out for verb in VERBS)
    assert not loaded_modules(["--help"]) & {"torch", "numpy", "yaml", "rich"}
    assert onebit("--version").out == f"onebit {__version__}\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None), ({"torch": "loaded"}, None)],
)
def test_waiting_threads_of_torch_sleep_soon(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    if "torch" not in given:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(onebit_package.__file__))
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_verbs_that_only_name_things_load_no_torch() -> None:
    lines = "list recipes", "list nets", "completion bash", "train digits-smoke --epoch 3"
    lines += "train mnist-fast --print-config", "train mnist-fast --print-config --loss hings"
    assert "torch" not in loaded_modules(*map(str.split, lines), *([verb, "--help"] for verb in VERBS))


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_is_an_answer(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: onebit ")


def test_help_takes_a_verb(onebit: Onebit, capsys: pytest.CaptureFixture[str]) -> None:
    assert onebit("help", "train").out == onebit("train", "--help").out
    with pytest.raises(SystemExit, match="0"):
        onebit("help", "pack")
    assert capsys.readouterr().out.startswith("usage: onebit pack ")
    assert onebit("help").out == onebit("--help").out


@pytest.mark.parametrize("flags", [[], ["--out", "x"], ["--resume"], ["--json"], ["--overwrite"]])
def test_train_alone_says_what_to_type(onebit: Onebit, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.cli.train_verb._train_all", None)
    done = onebit("train", *flags)
    assert (done.status, done.out) == (2, "")
    typed = [line.split("   ")[0].split() for line in done.err.splitlines() if line.startswith("  onebit ")]
    assert len(typed) >= 4
    for _, *words in typed:
        if "--resume" not in words and "--help" not in words:
            assert onebit(*words, "--print-config").status == 0


def test_train_help_shows_every_field_with_default_and_meaning(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = onebit("train", "--help").out.splitlines()
    assert max(map(len, lines)) <= 100
    for name in flag_names():
        flag = f"--{name}" if name == "name" else f"--{name.removesuffix('.name')}"
        [line] = [line for line in lines if re.match(rf"  {re.escape(flag)} \S", line)]
        assert re.match(r"  --\S+ \S+ +\w", line) or lines[lines.index(line) + 1].startswith(" " * 37), line
    text = "\n".join(lines)
    assert "--optimizer.lr 0.001 " in text
    assert "docs/coming-from.md" in text
    for option in ("--method", "--out", "--resume", "--seeds", "--data", "--print-config", "--json"):
        assert f"\n  {option}" in text


def test_train_help_of_a_recipe_shows_its_own_values(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = onebit("train", "cifar10-resnet20-real", "--epochs", "3", "--help").out
    assert "shown with its value in cifar10-resnet20-real" in text
    for flag in ("--epochs 3.0 ", "--optimizer sgd ", "--optimizer.lr 0.1 ", "--model resnet20 "):
        assert f"\n  {flag}" in text
    assert "\n  --model.weight_quantizer ste_sign " in onebit("train", "--model", "resnet_binary", "--help").out
    assert "\n  --optimizer bop " in onebit("train", "mnist-fast", "--method", "bop", "--help").out
    assert "'mnist-fast'?" in onebit("train", "mnist-fats", "--help").line
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, onebit("train", "mnist-bayesbinn", "--help").out.splitlines())) <= 80  # which has long texts


def test_threads_override_the_environment(
    onebit: Onebit, run_folder: Path, packed_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setenv("ONEBIT_THREADS", "none")
    assert "got 'none'" in onebit("evaluate", run_folder).line
    for verb, file in (("evaluate", run_folder), ("evaluate", packed_file), ("verify", packed_file)):
        monkeypatch.setenv("ONEBIT_THREADS", "none")
        done = onebit(verb, file, "--threads", "2", "--json")
        assert done.status == 0, done.line
    assert set(counts) == {2}
    for wrong in ("0", "5000"):
        refused = onebit("evaluate", packed_file, "--threads", wrong)
        assert (refused.status, f"got '{wrong}'" in refused.line) == (2, True)
