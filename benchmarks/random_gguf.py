"""GGUF files with random signs in the shapes of published 1-bit models: for speed and memory, not for text.

python -m benchmarks.random_gguf 0.6B model.gguf
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onebit.language.tokenizer import BYTES
from onebit.packed.gguf_file import GROUP, gguf_package, pack_q1_0

SHAPES = {
    "0.6B": (1024, 3072, 28, 16, 8, 128, 151_936),
    "1.7B": (2048, 6144, 28, 16, 8, 128, 151_936),
    "4B": (2560, 9728, 36, 32, 8, 128, 151_936),
    "8B": (4096, 12288, 36, 32, 8, 128, 151_936),
}
"""Name -> width, inner width, layers, heads, heads of keys, size of a head, tokens: those of Qwen3."""
ALPHABET = sorted(BYTES, key=BYTES.__getitem__)


def write_random(
    path: Path | str,
    shape: Sequence[int],
    *,
    kind: str = "qwen3",
    weights: str = "Q1_0",
    ends: str = "Q1_0",
    tied: bool = True,
    biases: bool = False,
    facts: Mapping[str, Any] = {},
    tensors: Mapping[str, np.ndarray] = {},
    tokens: Sequence[str] = (),
    types: Sequence[int] = (),
    merges: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write a file.

    Args:
        shape: as a value of `SHAPES`.
        weights, ends: types of the matrices of layers, and of embedding and head.
        facts: further keys, after the architecture if they do not begin with "tokenizer.".
        tensors: further ones. tokens, types, merges: of the tokenizer; by default bytes and made-up names.
    """
    gguf, rng = gguf_package(), np.random.default_rng(seed)
    width, inner, layers, heads, kv_heads, size, vocabulary = shape
    writer = gguf.GGUFWriter(str(path), kind)
    counts = {"embedding_length": width, "block_count": layers, "feed_forward_length": inner, "context_length": 32768}
    counts |= {"attention.head_count": heads, "attention.head_count_kv": kv_heads}
    counts |= {"attention.key_length": size, "attention.value_length": size}
    reals = {"rope.freq_base": 1e6, "attention.layer_norm_rms_epsilon": 1e-6}
    texts = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    for key, value in {**counts, **reals, **texts, **facts}.items():
        name = key if key.startswith("tokenizer.") else f"{kind}.{key}"
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](name, value)
    tokens = tokens or [*ALPHABET, "ab", *(f"t{n}" for n in range(257, vocabulary))][:vocabulary]
    writer.add_token_list(tokens)
    writer.add_token_types(types or [1] * len(tokens))
    writer.add_token_merges(merges or ["a b"])

    def matrix(name: str, outputs: int, inputs: int, form: str, scale: float) -> None:
        if form == "Q1_0":
            signs = 2 * rng.integers(0, 2, (outputs, inputs), np.int8) - 1
            scales = scale * (0.5 + rng.random((outputs, inputs // GROUP)))
            data = pack_q1_0(signs, scales.astype(np.float16))
        else:
            values = (scale * rng.standard_normal((outputs, inputs))).astype(np.float32)
            data = gguf.quantize(values, gguf.GGMLQuantizationType[form])
        writer.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType[form])

    def vector(name: str, count: int, *, around: float = 1.0) -> None:
        writer.add_tensor(name, (around + 0.1 * rng.standard_normal(count)).astype(np.float32))

    matrix("token_embd", vocabulary, width, ends, 0.02)
    if not tied:
        matrix("output", vocabulary, width, ends, width**-0.5)
    vector("output_norm.weight", width)
    queries, pairs = heads * size, kv_heads * size
    for n in range(layers):
        of_layer = {"attn_norm": width, "ffn_norm": width, "attn_q_norm": size, "attn_k_norm": size}
        for name in list(of_layer)[: 4 if kind == "qwen3" else 2]:
            vector(f"blk.{n}.{name}.weight", of_layer[name])
        sizes = {"attn_q": (queries, width), "attn_k": (pairs, width), "attn_v": (pairs, width)}
        sizes |= {"attn_output": (width, queries), "ffn_gate": (inner, width), "ffn_up": (inner, width)}
        for name, (outputs, inputs) in (sizes | {"ffn_down": (width, inner)}).items():
            matrix(f"blk.{n}.{name}", outputs, inputs, weights, inputs**-0.5)
            if biases and name in ("attn_q", "attn_k", "attn_v"):
                vector(f"blk.{n}.{name}.bias", outputs, around=0.0)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    name, file = sys.argv[1:]
    write_random(file, SHAPES[name])
