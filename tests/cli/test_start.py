"""The command itself: help, exit statuses, and what is not imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onebit import __version__
from onebit.__main__ import VERBS
from onebit.recipe import flag_names
from support.command_line import Onebit, loaded_modules


def test_help_names_every_verb_and_imports_nothing(onebit: Onebit) -> None:
    done = onebit("--help")
    assert done.status == 0
    assert all(verb in done.out for verb in VERBS)
    assert not loaded_modules("--help") & {"torch", "numpy", "yaml", "rich"}


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [
        ("", {}, "1000"),
        ("", {"GOMP_SPINCOUNT": "5"}, "5"),
        ("", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("sys.modules['torch'] = sys;", {}, "None"),  # it is too late
    ],
)
@pytest.mark.parametrize("module", ["onebit", "onebit.__main__", "onebit.runtime"])
def test_threads_of_torch_that_wait_sleep_soon_unless_the_user_says_how(
    module: str, before: str, given: dict[str, str], expected: str
) -> None:
    code = f"import os, sys; {before} import {module}; print(os.environ.get('GOMP_SPINCOUNT'))"
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize(
    "words",
    [
        *("list recipes", "list nets", "completion bash", "train digits-smoke --epoch 3"),
        *("train mnist-fast --print-config", "train mnist-fast --print-config --loss hings"),
    ],
)
def test_verbs_that_only_name_things_load_no_torch(words: str) -> None:
    assert "torch" not in loaded_modules(*words.split())


def test_version(onebit: Onebit) -> None:
    assert onebit("--version").out == f"onebit {__version__}\n"


def test_help_of_every_verb_is_an_answer_without_torch() -> None:
    """One process shows all, one after the other."""
    code = (
        "import contextlib, io, json, sys\n"
        "from onebit.__main__ import VERBS, main\n"
        "shown = {}\n"
        "for verb in VERBS:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        try:\n"
        "            status = main([verb, '--help'])\n"
        "        except SystemExit as end:\n"
        "            status = end.code or 0\n"
        "    shown[verb] = [status, out.getvalue(), 'torch' in sys.modules]\n"
        "print(json.dumps(shown))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    shown = json.loads(done.stdout)
    assert list(shown) == list(VERBS)
    for verb, (status, text, torch_is_loaded) in shown.items():
        assert (status, torch_is_loaded) == (0, False), verb
        assert text.startswith("usage: onebit "), verb


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
    assert max(map(len, lines[lines.index("the model:") :])) <= 100
    for name in flag_names():
        flag = f"--{name}" if name == "name" else f"--{name.removesuffix('.name')}"
        [line] = [line for line in lines if re.match(rf"  {re.escape(flag)} \S", line)]
        assert re.match(r"  --\S+ \S+ +\w", line) or lines[lines.index(line) + 1].startswith(" " * 37), line
    text = "\n".join(lines)
    assert "--optimizer.lr 0.001 " in text
    assert "docs/coming-from.md" in text
    for option in ("--method", "--out", "--resume", "--seeds", "--data", "--print-config", "--json"):
        assert f"\n  {option}" in text


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_train_help_is_as_wide_as_the_terminal(onebit: Onebit, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for recipe in ([], ["mnist-bayesbinn"]):  # which says much of itself
        assert max(map(len, onebit("train", *recipe, "--help").out.splitlines())) <= columns


def test_train_help_of_a_recipe_shows_its_own_values(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = onebit("train", "cifar10-resnet20-real", "--epochs", "3", "--help").out
    assert "shown with its value in cifar10-resnet20-real" in text
    for flag in ("--epochs 3.0 ", "--optimizer sgd ", "--optimizer.lr 0.1 ", "--model resnet20 "):
        assert f"\n  {flag}" in text
    assert "\n  --model.weight_quantizer ste_sign " in onebit("train", "--model", "resnet_binary", "--help").out
    assert "\n  --optimizer bop " in onebit("train", "mnist-fast", "--method", "bop", "--help").out
    assert "unknown recipe 'mnist-fats'; did you mean 'mnist-fast'?" in onebit("train", "mnist-fats", "--help").line


@pytest.fixture
def no_count(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ONEBIT_THREADS is no number; afterwards torch has the threads of before."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv("ONEBIT_THREADS", "none")
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("no_count")
def test_threads_of_the_command_line_go_before_the_environment(
    onebit: Onebit, run_folder: Path, packed_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    assert "got 'none'" in onebit("evaluate", run_folder).line
    for verb, file in (("evaluate", run_folder), ("evaluate", packed_file), ("verify", packed_file)):
        monkeypatch.setenv("ONEBIT_THREADS", "none")
        done = onebit(verb, file, "--threads", "2", "--json")
        assert done.status == 0, done.line
    assert torch.get_num_threads() == 2
    for wrong in ("0", "none", "5000"):
        refused = onebit("evaluate", packed_file, "--threads", wrong)
        assert refused.status == 2
        assert f"must be from 1 to 4096, got '{wrong}'" in refused.line
