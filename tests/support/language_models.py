"""Small language models of transformers, in a folder that `make build/language` installs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(os.environ.get("ONEBIT_LANGUAGE", Path(__file__).parents[2] / "build" / "language"))
NIGHTLY = [
    pytest.mark.nightly,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="transformers is not installed: make build/language"),
]
sys.path.append(str(FOLDER))  # after the packages of the environment
SIZES = {"vocab_size": 96, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "num_attention_heads": 2, "num_key_value_heads": 1}


def make_model(kind: str = "llama", **changes: Any) -> Any:
    """A random Llama or Qwen3 whose head is its embedding."""
    import transformers

    config, model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }[kind]
    torch.manual_seed(0)
    return model(config(**{**SIZES, **SPECIAL, "tie_word_embeddings": True, **changes})).eval()
