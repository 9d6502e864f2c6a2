"""Models of transformers, trained with binary weights: llama.cpp gives the probabilities and tokens of their files."""

from __future__ import annotations

import argparse
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onebit
from onebit.quantizers import Xnor
from support.language_models import NIGHTLY
from support.llama_cpp import running
from support.stand_in_models import Groups

pytestmark = [*NIGHTLY, pytest.mark.filterwarnings("ignore")]
TOKENS, LENGTH, PROMPTS = 640, 64, 32
SIZES = {
    **{"vocab_size": TOKENS, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0},
    "eos_token_id": 1,
}
KINDS = {  # with what differs: heads of another size, biases, a tied head, another base of the rotations
    "llama": ("Llama", {"head_dim": 64, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "llama-tied": (
        "Llama",
        {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    ),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3-untied": ("Qwen3", {"head_dim": 64, "tie_word_embeddings": False}),
}
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
AWKWARD = [
    *(
        "Hello world",
        "  two  spaces\n\n\tx",
        "it's don't WE'LL I'D 12345 3.14",
        "\r\n\r\n  \r",
        "nul\x00x",
        "trailing ",
    ),
    *("ünïcödé 你好 🙂👩‍👩‍👧 \u200b\u202e", "<|bos|>a<|eos|> <extra>b<extra>", "def f(x):\n    return x  # ok\n", "'"),
    *("9" * 50, "a" * 300, "\ufeffx", "ａｂｃ ①", " \u3000\xa0 x"),
]


def make_tokenizer(folder: Path, pre: str) -> Any:
    """A byte-level BPE as GPT-2, Llama 3 or Qwen have it, trained on source code."""
    import tokenizers as t

    made = t.Tokenizer(t.models.BPE(ignore_merges=pre == "llama-bpe"))
    plain = t.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "gpt-2")
    regex = WORDS % {"llama-bpe": r"\p{N}{1,3}"}.get(pre, r"\p{N}")
    split = t.pre_tokenizers.Split(t.Regex(regex), "isolated")
    made.pre_tokenizer = plain if pre == "gpt-2" else t.pre_tokenizers.Sequence([split, plain])
    made.decoder = t.decoders.ByteLevel()
    if pre == "llama-bpe":
        first = t.processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
        made.post_processor = first
    alphabet, special = t.pre_tokenizers.ByteLevel.alphabet(), ["<|bos|>", "<|eos|>"]
    options = {"vocab_size": 600, "special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    made.train_from_iterator([inspect.getsource(argparse)], t.trainers.BpeTrainer(**options))
    made.add_tokens(["<extra>"])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return made


def trained(kind: str, quantizer: Any, ids: np.ndarray) -> Any:
    """A model after 60 steps on source code."""
    name, options = KINDS[kind]
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **options})
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # no bias or norm at its first value
            parameter.data += 0.1 * torch.randn_like(parameter)
    onebit.binarize_(model, weight_quantizer=quantizer, where=lambda name, _: name != "lm_head")
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(60):
        batch = np.stack([ids[i : i + LENGTH] for i in rng.integers(0, len(ids) - LENGTH, 8)])
        x = torch.from_numpy(batch)
        loss = model(x, labels=x, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 5  # log 640 = 6.5
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantizer", [Groups, partial(Xnor, group=128), "magnitude_aware", "xnor"])
def test_llama_cpp_gives_the_probabilities_of_the_model(tmp_path: Path, kind: str, quantizer: Any) -> None:
    """Q1_0 products round activations to 8 bits; with the ±d in F32, only float32 rounds."""
    tokenizer = make_tokenizer(tmp_path / "folder", "gpt-2")
    ids = np.array(tokenizer.encode(inspect.getsource(argparse)).ids)
    model = trained(kind, quantizer, ids)
    onebit.export_gguf(model, tmp_path / "q1_0.gguf", tokenizer=tmp_path / "folder", rest="f16")
    model = onebit.dense_(model)
    onebit.export_gguf(model, tmp_path / "f32.gguf", tokenizer=tmp_path / "folder", rest="f32")
    prompts = [ids[i : i + 1 + i % 40].tolist() for i in range(0, 37 * PROMPTS, 37)]
    with torch.no_grad():
        logits = [model(torch.tensor([prompt]), use_cache=False).logits[0, -1] for prompt in prompts]
    expected = torch.stack(logits).log_softmax(-1).double().numpy()
    found = {}
    for name in ("f32", "q1_0"):
        with running(tmp_path / f"{name}.gguf", TOKENS) as net:
            found[name] = np.stack([net.log_probabilities(prompt) for prompt in prompts])
    assert np.abs(found["f32"] - expected).max() < 0.01
    divergence = (np.exp(expected) * (expected - found["q1_0"])).sum(1)
    assert divergence.mean() < 1e-3


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_llama_cpp_splits_text_into_the_same_tokens(tmp_path: Path, pre: str) -> None:
    tokenizer = make_tokenizer(tmp_path, pre)
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    onebit.export_gguf(model, tmp_path / "x.gguf", tokenizer=tmp_path)
    with running(tmp_path / "x.gguf", TOKENS) as net:
        for text in AWKWARD:
            assert net.tokenize(text) == tokenizer.encode(text).ids, text


def test_a_tokenizer_of_transformers_gives_the_same_tokens(tmp_path: Path) -> None:
    """With tokens before and after, a chat template, and options that change no token."""
    import tokenizers
    import transformers

    made = make_tokenizer(tmp_path / "folder", "gpt-2")
    made.model.unk_token, ends = "<|eos|>", [("<|bos|>", 0), ("<|eos|>", 1)]
    template = tokenizers.processors.TemplateProcessing(single="<|bos|> $A <|eos|>", special_tokens=ends)
    made.post_processor = tokenizers.processors.Sequence([tokenizers.processors.ByteLevel(), template])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|bos|>", eos_token="<|eos|>")
    fast.chat_template = "{{x}}"
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    onebit.export_gguf(model, tmp_path / "x.gguf", tokenizer=fast)
    assert onebit.packed.gguf_file.read_gguf(tmp_path / "x.gguf").facts["tokenizer.chat_template"] == "{{x}}"
    with running(tmp_path / "x.gguf", TOKENS) as net:
        for text in AWKWARD:
            assert net.tokenize(text) == fast(text)["input_ids"], text


def test_a_folder_of_save_pretrained_is_exported_as_its_model(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, tie_word_embeddings=True))
    onebit.binarize_(model, weight_quantizer="magnitude_aware", where=lambda name, _: name != "lm_head")
    model.config.quantization_config = onebit.quantizer_config(model)
    model.save_pretrained(tmp_path / "folder", max_shard_size="500KB")
    assert len([*(tmp_path / "folder").glob("*.safetensors")]) > 1
    make_tokenizer(tmp_path / "folder", "qwen2")
    onebit.export_gguf(model, tmp_path / "1.gguf", tokenizer=tmp_path / "folder")
    onebit.export_gguf(tmp_path / "folder", tmp_path / "2.gguf")
    read = onebit.packed.gguf_file.read_gguf
    one, two = (read(tmp_path / name) for name in ("1.gguf", "2.gguf"))
    assert one.facts == two.facts
    assert all(np.array_equal(tensor.data, two.tensors[name].data) for name, tensor in one.tensors.items())
    onebit.register_transformers()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    assert again.config.quantization_config == model.config.quantization_config
    onebit.load_gguf_(again, tmp_path / "1.gguf")
    onebit.export_gguf(again, tmp_path / "3.gguf", tokenizer=tmp_path / "folder")
    assert (tmp_path / "3.gguf").read_bytes() == (tmp_path / "1.gguf").read_bytes()
