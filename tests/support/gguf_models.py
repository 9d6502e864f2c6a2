"""Small language models of random weights in GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.random_gguf import write_random
from onebit.language.native_decoder import NativeDecoder
from onebit.language.net import Net, read_net
from onebit.language.reference import ReferenceDecoder
from onebit.native import InstructionSet, instruction_sets
from onebit.packed.gguf_file import pack_q1_0

SHAPE = (128, 256, 2, 4, 2, 64, 300)
ENDS = "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" + ENDS + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_model(path: Path, shape: tuple[int, ...] = SHAPE, **options: Any) -> Path:
    write_random(path, shape, **options)
    return path


def write_every_kind(path: Path) -> None:
    """A file with each kind of value, and tensors of several types."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for n, add in enumerate(
        ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
    ):
        getattr(writer, f"add_{add}")(add, n)
    writer.add_bool("bool", True)
    writer.add_array("texts", ["a", "bc"])
    writer.add_array("numbers", [1, 2, 3])
    rng = np.random.default_rng(0)
    signs, scale = rng.choice([-1, 1], (3, 256)), np.full((3, 2), 0.5, np.float16)
    writer.add_tensor("w", pack_q1_0(signs, scale), raw_dtype=gguf.GGMLQuantizationType.Q1_0)
    weights = rng.normal(size=(2, 3, 32)).astype(np.float32)
    for kind in ("F32", "F16", "BF16", "Q8_0"):
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind, gguf.quantize(weights, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokens_of(net: Net, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, net.vocabulary, count, dtype=np.int32)


def assert_same_bits(
    path: Path,
    count: int,
    *,
    kv: str = "float16",
    exact: bool = False,
    threads: int = 3,
    isas: Mapping[str, InstructionSet] | None = None,
) -> None:
    """Every instruction set gives the reference's logits, token by token and many at once."""
    net, _ = read_net(path)
    tokens, options = tokens_of(net, count), {"context": count, "kv": kv, "exact": exact}
    expected = ReferenceDecoder(net, **options).run(tokens, 0, all_rows=True)
    for name, isa in (instruction_sets() if isas is None else isas).items():
        for parts in (1, threads):
            decoder = NativeDecoder(read_net(path)[0], isa, threads=parts, **options)
            batch = decoder.run(tokens, 0, all_rows=True)
            np.testing.assert_array_equal(batch, expected, err_msg=f"{name}, {parts} threads")
            for n in range(0, count, max(1, count // 20)):
                np.testing.assert_array_equal(
                    decoder.run(tokens[n : n + 1], n)[0], expected[n], err_msg=f"{name}, token {n}"
                )
