"""Language models in several processes: the example, its checkpoints, and accelerate."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import onebit
from support.language_models import NIGHTLY, make_model
from support.rank_agents import Agents
from support.sharded_llamas import train_llama

pytestmark = [*NIGHTLY, pytest.mark.filterwarnings("ignore")]  # of transformers and torchao
STEPS, HALF = "step-0000008", "step-0000004"


@pytest.fixture
def arguments(tmp_path: Path) -> list[object]:
    make_model().save_pretrained(tmp_path / "float")
    np.save(tmp_path / "tokens.npy", (np.arange(64 * 16).reshape(64, 16) % 13).astype(np.uint16))
    given: dict[str, Any] = {"model": tmp_path / "float", "data": tmp_path / "tokens.npy", "steps": 8, "save": 4}
    return [part for name, value in {**given, "batch": 8}.items() for part in (f"--{name}", value)]


def run(agents: Agents, processes: int, *arguments: object) -> None:
    ended = agents.launch("support.sharded_llamas:run_example", *arguments, processes=processes).end()
    assert ended.status == 0, ended.err


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "bf16"])
def test_a_checkpoint_is_resumed_with_another_number_of_processes(
    agents: Agents, tmp_path: Path, arguments: list[object], optimizer: str
) -> None:
    arguments += ["--optimizer", optimizer, "--embeddings"]
    run(agents, 2, *arguments, "--out", tmp_path / "2")
    shutil.copytree(tmp_path / "2" / HALF, tmp_path / "1" / HALF)
    run(agents, 1, *arguments, "--out", tmp_path / "1")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    start = load_file(tmp_path / "float" / "model.safetensors")
    assert one.keys() == two.keys() == start.keys()
    moved = different = 0.0
    for name, x in one.items():
        moved += float((x.float() - start[name]).abs().sum())
        different += float((x.float() - two[name].float()).abs().sum())
    assert different < moved * {"adamw": 1e-3, "adamw8bit": 0.1, "bf16": 0.5}[optimizer]  # bf16 rounds by chance
    onebit.export_gguf(tmp_path / "2", tmp_path / "net.gguf")
    tokens = np.arange(16) % 13
    found = onebit.load_language_model(tmp_path / "net.gguf").log_probabilities(tokens.tolist())
    assert found[np.arange(15), tokens[1:]].mean() > -4  # of 96 tokens: ln 96 is 4.6


def test_accelerate_trains_it_to_the_parameters_of_one_process(agents: Agents, tmp_path: Path) -> None:
    ended = agents.launch("support.sharded_llamas:train_in_accelerate", tmp_path).end()
    assert ended.status == 0, ended.err
    found, expected = torch.load(tmp_path / "parameters"), train_llama("xnor", embeddings=True)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], atol=1e-4, rtol=1e-3)
