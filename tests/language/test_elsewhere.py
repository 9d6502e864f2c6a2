"""The same nets in transformers, and the same files in llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onebit
from benchmarks.random_gguf import ALPHABET
from onebit.language import Sampling, load_language_model
from onebit.language.tokenizer import PRE
from support.gguf_models import ENDS, write_model
from support.language_models import NIGHTLY, make_model

pytestmark = NIGHTLY
STRINGS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    " \n \n",
    "\t\tif x:\n\t\t\treturn  1\n",
    "Hello, world!",
    " leading",
    "trailing  ",
    "a  b   c    d",
    "don't DON'T we'Ll I'VE ’s",
    "1234567890",
    "3.14159e-10 1,000,000",
    "x=1;y=22;z=333",
    "naïve café Ångström",
    "cafe\u0301 A\u030angstro\u0308m",
    "你好，世界！今天3月",
    "こんにちは 世界",
    "안녕하세요",
    "مرحبا بالعالم ١٢٣",
    "שלום",
    "हिन्दी में",
    "ไทยภาษา",
    "😀👍🏽👩‍👩‍👧‍👦🇩🇪",
    "\u200b\u00a0\u2003 \ufeff",
    "\r\n\r\nWindows\r\n",
    f"<|user|>\nHi{ENDS}\n",
    f"a{ENDS}b <note> c",
    "<|user |>",
    "½²³ⅣⅫ",
    "ABCdefGHI_jkl-mno",
    "https://x.y/z?q=1&r=%20#f",
    '\\n \\t {"k": [1, null]}',
    "\x01\x7f",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ ﬂ Ⅷ",
    "ǅ ß ſ İ ı",
    "''''\"\"\"\"```",
    "for(;;){i++;}//!",
    "é" * 40 + " " * 70 + "z",
]


def divergence(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.exp(expected) * (expected - found)).sum(-1).mean())


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_exported_net_has_the_probabilities_of_transformers(kind: str, tied: bool, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    net = make_model(kind, num_hidden_layers=3, num_attention_heads=4, tie_word_embeddings=tied)
    onebit.binarize_(net, weight_quantizer=lambda: onebit.quantizers.WEIGHT_QUANTIZERS["magnitude_aware"](group=128))
    onebit.export_gguf(net, tmp_path / "x.gguf", rest="f32")
    ids = np.random.default_rng(0).integers(0, 96, 60)
    onebit.load_gguf_(onebit.dense_(net), tmp_path / "x.gguf")  # with scales in float16
    with torch.inference_mode():
        expected = net(torch.from_numpy(ids)[None]).logits[0].double().log_softmax(-1).numpy()
    for exact, most in ((False, 1e-5), (True, 1e-7)):
        found = load_language_model(tmp_path / "x.gguf", context=60, exact=exact).log_probabilities(ids)
        assert divergence(found.astype(np.float64), expected) < most
        greedy = found.argmax(-1) == expected.argmax(-1)
        best = np.sort(expected, axis=-1)
        assert (greedy | (best[:, -1] - best[:, -2] < 0.01)).all()


SCALINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "linear": {"facts": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
    "yarn": {
        "facts": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
    },
    "llama3": {"tensors": {"rope_freqs.weight": np.linspace(1, 8, 32, dtype=np.float32)}},
}


@pytest.mark.parametrize("scaling", list(SCALINGS))
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_rotations_are_those_of_llama_cpp(kind: str, scaling: str, tmp_path: Path) -> None:
    if kind != "llama" and scaling == "llama3":
        pytest.skip("llama.cpp has rope_freqs in a llama only")
    from support.llama_cpp import running

    shape = (256, 256, 2, 4, 2, 64, 300)
    options = {"kind": kind, "weights": "F16", "ends": "F16", "biases": kind == "qwen2", **SCALINGS[scaling]}
    options |= {"tokens": [f"t{n}" for n in range(300)]}  # whole characters, which llama.cpp tells probabilities of
    path = write_model(tmp_path / "x.gguf", shape, **options)
    prompt = np.random.default_rng(1).integers(0, 300, 120).tolist()
    found = load_language_model(path, context=200).log_probabilities(prompt)[-1]
    with running(path, 300) as server:
        expected = server.log_probabilities(prompt)
    known = np.isfinite(expected)
    assert known.sum() > 250
    assert np.abs(found - expected)[known].max() < 0.02


@pytest.mark.parametrize("pre", list(PRE))
def test_tokens_are_those_of_llama_cpp_and_decode_back(pre: str, tmp_path: Path) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from support.llama_cpp import running

    regex, skips = PRE[pre]
    made = Tokenizer(models.BPE(ignore_merges=skips))
    splits = [pre_tokenizers.Split(Regex(regex), "isolated")] if regex else []
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not regex)
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, whole])
    text = [path.read_text() for path in Path(onebit.__file__).parent.rglob("*.py")] + STRINGS * 50
    options: Any = {"vocab_size": 3000, "initial_alphabet": ALPHABET, "show_progress": False}
    made.train_from_iterator(text, trainers.BpeTrainer(**options))
    model = json.loads(made.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    types = [1] * len(tokens) + [3, 3, 4]
    tokens += [ENDS, "<|user|>", "<note>"]
    facts = {
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.eos_token_id": len(tokens) - 3,
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
    }
    shape = (128, 128, 1, 2, 1, 64, len(tokens))
    path = write_model(tmp_path / "x.gguf", shape, tokens=tokens, types=types, merges=merges, facts=facts)
    lm = load_language_model(path)
    with running(path, len(tokens)) as server:
        for string in STRINGS:
            ids = lm.encode(string)
            assert ids[: pre == "llama-bpe"] == lm.tokenizer.first
            assert ids == server.tokenize(string), string
            assert lm.decode(ids) == string.replace(ENDS, "").replace("<|user|>", ""), string


def test_a_trained_net_writes_what_it_writes_in_transformers(tmp_path: Path) -> None:
    """A few steps on a text of eight letters are enough for sure choices."""
    net = make_model("llama", num_hidden_layers=2)
    onebit.binarize_(net, weight_quantizer=lambda: onebit.quantizers.WEIGHT_QUANTIZERS["magnitude_aware"](group=128))
    rows = torch.tensor([list(range(10, 18)) * 6 for _ in range(8)])
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        net(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    onebit.export_gguf(net.eval(), tmp_path / "x.gguf")
    with torch.inference_mode():
        expected = net.generate(rows[:1, :9], max_new_tokens=30, do_sample=False, pad_token_id=0)[0, 9:].tolist()
    lm = load_language_model(tmp_path / "x.gguf")
    assert list(lm.tokens(rows[0, :9].tolist(), Sampling(), 30)) == expected
    assert len({*expected}) == 8
