"""result.json names the weights that it is about: the scores of others are neither shown nor packed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cli_support import Onebit
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


@pytest.fixture
def changed(run_folder: Path, tmp_path: Path) -> Path:
    """A run whose weights were changed after its test."""
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    path = folder / "best.safetensors"
    with safe_open(path, "np") as file:
        facts = file.metadata()
    state = load_file(path)
    last = max(name for name in state if name.endswith(".weight") and state[name].ndim == 2)
    save_file(state | {last: -state[last]}, path, facts)
    return folder


def test_a_result_names_its_weights(run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    assert result["sha256"] == hashlib.sha256((run_folder / "best.safetensors").read_bytes()).hexdigest()


@pytest.mark.filterwarnings("default")
def test_scores_of_other_weights_are_left_out(onebit: Onebit, run_folder: Path, changed: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.1bit"
    packed = onebit("pack", changed, "-o", net)
    assert packed.status == 0
    assert f"note: {changed / 'best.safetensors'} is not what its result.json is about" in packed.err
    card = onebit("inspect", net, "--json").json["facts"]["card"]
    assert set(card["test"]) == {"packed"}
    shown = onebit("report", changed, "-o", tmp_path / "report", "--json")
    assert f"{changed / 'result.json'} is about other weights than best.safetensors: left out" in shown.err
    assert onebit("report", run_folder, "-o", tmp_path / "report", "--json").err == ""


def test_verify_fails_where_a_result_is_about_other_weights(onebit: Onebit, run_folder: Path, changed: Path) -> None:
    failed = onebit("verify", changed)
    assert failed.status == 1
    assert "FAIL  result: result.json is about other weights" in failed.out
    assert "result.json" not in onebit("verify", run_folder).out
