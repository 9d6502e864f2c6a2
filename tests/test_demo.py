"""`make demo`: what it installs, and that the commands it ends with are such."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import onebit
from onebit.data import Split, load_dataset
from onebit.packed import save
from onebit.runtime import run
from support.command_line import check_command
from support.packed_nets import IMAGE_NETS

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "tools" / "demo.py"
PACKAGES = {"PIL": "pillow"}
"""Modules that are not called like the package they come in."""


def requirements(key: str) -> set[str]:
    """Names of the packages in a list of pyproject.toml."""
    found = re.search(rf"^{key} = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, key
    return {name.lower() for name in re.findall(r'"([\w-]+)', found[1])}


def test_the_demo_imports_nothing_beyond_what_is_installed_for_it() -> None:
    allowed = {*requirements("dependencies"), *requirements("train"), "onebit", "benchmarks"}
    found = set()
    for node in ast.walk(ast.parse(DEMO.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert "onebit" in found
    assert {PACKAGES.get(name, name) for name in found} <= allowed


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DEMO.parent))
    return importlib.import_module("demo")


@pytest.mark.parametrize("data", ["", "sample"])
def test_the_demo_consists_of_commands_that_are_understood(
    demo: ModuleType, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without MNIST, it goes on with the sample."""
    commands = []

    def run(command: str) -> int:
        commands.append(shlex.split(command))
        return int(command == "data mnist" and bool(data))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run", run)
    monkeypatch.setattr(demo, "draw_answers", lambda *_, **__: None)
    monkeypatch.setattr(onebit, "load_dataset", lambda name: load_dataset("mnist-sample"))
    demo.main()
    assert len(list(demo.DIGITS.glob("*.png"))) == 10
    lines = [line.partition("#")[0].split() for line in capsys.readouterr().out.splitlines()]
    assert ["source", ".venv/bin/activate"] in lines
    commands += [line[1:] for line in lines if line[:1] == ["onebit"]]
    verbs = ["data", "train", "verify", "pack", "predict", "bench", "report", "export"]
    assert [command[0] for command in commands] == [*verbs, "predict", "inspect", "evaluate", "train", "list"]
    assert all(("mnist-sample" in command) == bool(data) for command in commands if command[0] == "train")
    for command in commands:
        check_command(command, monkeypatch, capsys)


def test_the_demo_draws_right_and_wrong_answers_of_its_net(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = IMAGE_NETS["sign"](0)
    save(net, tmp_path / "net.1bit")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, *net.input.shape)).astype(np.uint8)
    labels = np.zeros(8, np.int64)
    drawn = {}
    monkeypatch.setattr(demo, "NET", tmp_path / "net.1bit")
    monkeypatch.setattr(onebit.report, "plot_answers", lambda shown, path, **named: drawn.update(named, images=shown))
    demo.draw_answers(Split(images, labels), tmp_path / "a.png", data="mnist test")
    assert np.array_equal(drawn["images"], images)
    assert np.array_equal(drawn["predicted"], run(net, images).argmax(axis=1))
    assert np.array_equal(drawn["labels"], labels)
    assert (drawn["probabilities"] > 0).all()
    assert (drawn["probabilities"] <= 1).all()
