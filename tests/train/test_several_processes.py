"""Language models made one-bit from float ones by the examples, in one process and several; and by accelerate."""

from __future__ import annotations

import re
import runpy
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


def test_a_float_model_becomes_a_one_bit_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = " ".join(f"{n % 13} plus {n % 7} makes {n % 13 + n % 7}.\n" for n in range(5000))
    (tmp_path / "text.txt").write_text(words)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options: Any = {"vocab_size": 300, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator([words], trainers.BpeTrainer(**options))
    make_model("qwen3", vocab_size=300, tie_word_embeddings=False).save_pretrained(tmp_path / "float")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "float")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["one_bit_from_float.py", "float", "text.txt", "6"])
    for _ in range(2):  # a second time it is read from its checkpoint
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "one_bit_from_float.py"), run_name="__main__")
    before, after = (
        float(x) for x in re.findall(r"(?:float|1-bit) loss .* perplexity ([\d.]+)", capsys.readouterr().out)[:2]
    )
    assert 0 < after < before  # the float model is random
    text = "".join(onebit.load_language_model("one-bit/net.gguf").generate("1 plus", max_tokens=5))
    assert text


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


def test_the_trainer_of_transformers_trains_it_sharded(agents: Agents, tmp_path: Path) -> None:
    ended = agents.launch("support.sharded_llamas:train_in_trainer", tmp_path).end()
    assert ended.status == 0, ended.err
    model, tokens = make_model(), np.arange(4 * 16).reshape(4, 16) % 13
    onebit.binarize_(model, weight_quantizer="xnor", embeddings=True)
    before = onebit.evaluate(model, tokens, loss="next_token", verbose=False).loss
    assert not model.load_state_dict(torch.load(tmp_path / "parameters"), strict=False).unexpected_keys
    assert onebit.evaluate(model, tokens, loss="next_token", verbose=False).loss < before / 2


def test_accelerate_trains_it_to_the_parameters_of_one_process(agents: Agents, tmp_path: Path) -> None:
    ended = agents.launch("support.sharded_llamas:train_in_accelerate", tmp_path).end()
    assert ended.status == 0, ended.err
    found, expected = torch.load(tmp_path / "parameters"), train_llama("xnor", embeddings=True)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], atol=1e-4, rtol=1e-3)
