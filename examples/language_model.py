"""Trains a small Llama with weights of one bit beside its float twin: python examples/language_model.py [TEXT_FILE]

Needs transformers and gguf. Without a file, the text is the sources of Python's standard library.
"""

import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import onebit

FOLDER = Path("language-model")


def read_rows(path: str | None, length: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Rows of tokens, to train on and, one of each 20, to validate with. llama.cpp reads byte-level BPE."""
    files = [Path(path)] if path else sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    tokenizer, byte_level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    options: Any = {"special_tokens": ["<|end|>"], "initial_alphabet": byte_level.alphabet(), "show_progress": False}
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=1024, **options))
    FOLDER.mkdir(exist_ok=True)
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    tokens = np.array(tokenizer.encode(text).ids)
    rows = tokens[: len(tokens) // length * length].reshape(-1, length)
    held_out = np.arange(len(rows)) % 20 == 10
    return rows[~held_out], rows[held_out][:200]


def make_llama(width: int = 256, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4, "vocab_size": 1024}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 128, "head_dim": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True))


if __name__ == "__main__":
    rows, held_out = read_rows(sys.argv[1] if sys.argv[1:] else None)
    warnings.filterwarnings("ignore", "the model has no binary layer")  # the float net
    for name in ("float", "1-bit"):
        model = make_llama()
        if name == "1-bit":
            onebit.binarize_(model, weight_quantizer="magnitude_aware")  # the head is the embedding, and stays real
        optimizer = onebit.clip_latents_(torch.optim.AdamW(onebit.latent_groups(model, lr=2e-3)))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=401, pct_start=0.1)
        training = {"epochs": 1, "batch_size": 16, "loss": "next_token", "schedule": schedule, "clip_grad_norm": 1.0}
        training["on_step"] = lambda done, all_steps: done % 50 or print(f"step {done} of {all_steps}", flush=True)
        onebit.fit(model, rows[:6400], optimizer, **training)  # type: ignore[arg-type]
        print(name, onebit.evaluate(model, held_out, loss="next_token"))

    onebit.export_gguf(model, FOLDER / "net.gguf", tokenizer=FOLDER)
    print("".join(onebit.load_language_model(FOLDER / "net.gguf").generate("def read_", max_tokens=40)))
