"""`onebit generate`, `onebit chat`, and evaluate and bench of a GGUF file."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_gguf import ALPHABET
from onebit.language import load_language_model
from support.command_line import Onebit
from support.gguf_models import ENDS, TEMPLATE, write_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("tokenizers")
    tokens = [*ALPHABET, "ab", ENDS, "<|user|>", "<|assistant|>"]
    facts = {"tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.eos_token_id": 257}
    path = tmp_path_factory.mktemp("model") / "x.gguf"
    types = [1] * 257 + [3] * 3
    return str(write_model(path, (128, 128, 1, 2, 1, 64, 260), tokens=tokens, types=types, facts=facts))


def test_generate_prints_what_the_library_makes(onebit: Onebit, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"max_tokens": 12, "temperature": 0.9, "top_p": 0.9, "seed": 4}
    expected = "".join(load_language_model(file).generate("Once", **options))
    flags = ("--tokens", 12, "--temperature", 0.9, "--top-p", 0.9, "--seed", 4)
    found = onebit("generate", file, "Once", *flags, "--json").json
    assert found == {"model": file, "prompt": "Once", "text": expected}
    for threads in (1, 2):
        shown = onebit("generate", file, "Once", *flags, "--threads", threads).out
    assert "\x1b" not in shown
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once"))
    assert onebit("generate", file, "-", *flags, "--json").json["text"] == expected


def test_generate_takes_ids(onebit: Onebit, file: str) -> None:
    model = load_language_model(file)
    found = onebit("generate", file, "5 6 7", "--ids", "--tokens", 4).out.split()
    logits = model.decoder.run(np.array([5, 6, 7], np.int32), 0)[0]
    assert int(found[0]) == logits.argmax()
    assert "numbers" in onebit("generate", file, "5 x", "--ids").line


def test_a_conversation(onebit: Onebit, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\nAgain\n\n"))
    done = onebit("chat", file, "--tokens", 5, "--system", "Be kind")
    assert len(done.out) > 2


def test_perplexity_of_a_text_and_of_tokens(onebit: Onebit, file: str, tmp_path: Path) -> None:
    text = "A text that is longer than a context of ten tokens, cut into parts."
    (tmp_path / "book.txt").write_text(text)
    model = load_language_model(file)
    loss, count = model.loss(model.encode(text))
    found = onebit("evaluate", file, "--text", tmp_path / "book.txt", "--json").json
    assert (found["perplexity"], found["tokens"]) == (pytest.approx(math.exp(loss / count)), count)
    np.save(tmp_path / "rows.npy", [model.encode(text)])
    assert onebit("evaluate", file, "--data", tmp_path / "rows.npy", "--json").json["loss"] == pytest.approx(
        loss / count
    )
    assert "--text" in onebit("evaluate", file).line


def test_bench_tells_the_limit_of_memory(onebit: Onebit, file: str) -> None:
    found = onebit("bench", file, "--rounds", 1, "--prompt", 4, "--tokens", 2, "--json").json
    assert found["limit_per_s"] == pytest.approx(found["bytes_per_s"] / found["token_bytes"])
    assert min(found["prompt_per_s"], found["generated_per_s"]) > 0
    assert "tokens/s" in onebit("bench", file, "--rounds", 1, "--prompt", 4, "--tokens", 2).out


def test_mistakes_are_one_line(onebit: Onebit, file: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for words, noun in (
        ((tmp_path / "x.gguf", "x"), "GGUF"),
        ((tmp_path / "none.gguf", "x"), "none.gguf"),
        ((file, "x", "--top-p", 2), "top_p"),
        ((file, ""), "value"),
        ((file, "x" * 99, "--context", 9), "token"),
    ):
        assert noun in onebit("generate", *words).line
    write_model(tmp_path / "y.gguf", (128, 128, 1, 2, 1, 64, 260))
    assert "template" in onebit("chat", tmp_path / "y.gguf").line


def test_it_runs_without_torch(file: str) -> None:
    code = (
        "import sys; from onebit.__main__ import main; "
        f"main(['generate', {file!r}, 'ab', '--tokens', '2', '--seed', '1']); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
