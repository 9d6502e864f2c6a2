"""Stand-ins for Llama and Qwen3 of transformers: the same names, shapes and configuration, without a forward pass."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

import onebit
from onebit.quantizers import MagnitudeAware

WIDTH, FEED, LAYERS, HEADS, KEYS, HEAD, TOKENS = 128, 256, 2, 4, 2, 16, 300


Groups = partial(MagnitudeAware, group=128)


class Config(dict[str, Any]):
    """Attributes become entries, as `config.json` has them."""

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    __delattr__ = dict.__delitem__


def config(kind: str = "llama", **other: Any) -> Config:
    sizes = {"vocab_size": TOKENS, "hidden_size": WIDTH, "intermediate_size": FEED, "num_hidden_layers": LAYERS}
    sizes |= {"num_attention_heads": HEADS, "num_key_value_heads": KEYS, "head_dim": HEAD}
    sizes |= {"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1}
    rope = {"rope_theta": 10000.0, "rope_type": "default"}
    return Config(
        {"model_type": kind, "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_parameters": rope, **sizes, **other}
    )


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))


def tree(**children: nn.Module) -> nn.Module:
    made = nn.Module()
    for name, child in children.items():
        made.add_module(name, child)
    return made


def language_model(
    kind: str = "llama",
    *,
    quantizer: Any = "magnitude_aware",
    tied: bool = False,
    bias: bool = False,
    seed: int = 0,
    embeddings: bool = False,
    **other: Any,
) -> Any:
    """A model with random weights; its layers are binary but for `o_proj`, head and embedding only with `embeddings`.

    A tied model without `embeddings` has no head.
    """
    torch.manual_seed(seed)

    def linear(inputs: int, outputs: int) -> nn.Linear:
        return nn.Linear(inputs, outputs, bias=bias)

    def block() -> nn.Module:
        norms = {name: Norm(HEAD) for name in ("q_norm", "k_norm")} if kind == "qwen3" else {}
        attention = tree(
            q_proj=linear(WIDTH, HEADS * HEAD), k_proj=linear(WIDTH, KEYS * HEAD), v_proj=linear(WIDTH, KEYS * HEAD),
            o_proj=nn.Linear(HEADS * HEAD, WIDTH, bias=False), **norms,
        )  # fmt: skip
        feed = tree(gate_proj=linear(WIDTH, FEED), up_proj=linear(WIDTH, FEED), down_proj=linear(FEED, WIDTH))
        return tree(self_attn=attention, mlp=feed, input_layernorm=Norm(WIDTH), post_attention_layernorm=Norm(WIDTH))

    inner = tree(embed_tokens=nn.Embedding(TOKENS, WIDTH), layers=nn.ModuleList(block() for _ in range(LAYERS)))
    inner.add_module("norm", Norm(WIDTH))
    model: Any = tree(model=inner)
    if embeddings or not tied:
        model.add_module("lm_head", nn.Linear(WIDTH, TOKENS, bias=False))
    if embeddings and tied:
        model.lm_head.weight = inner.embed_tokens.weight
    model.config = config(kind, tie_word_embeddings=tied, **other)
    if quantizer is not None:
        onebit.binarize_(
            model,
            weight_quantizer=quantizer,
            where=lambda name, _: (embeddings or "proj" in name) and "o_proj" not in name,
            embeddings=embeddings,
        )
    return model


def save_pretrained(model: Any, folder: Path) -> Path:
    """A folder as transformers writes it, with the quantizers noted."""
    model.config.quantization_config = onebit.quantizer_config(model)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config))
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state = {name: x for name, x in state.items() if not name.startswith("lm_head.")}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder
