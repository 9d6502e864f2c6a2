"""Writes a language model as a GGUF file for llama.cpp, binary weights as tensors of type Q1_0."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onebit.common import __version__
from onebit.common.files import AnyPath, atomic_path
from onebit.common.text import size
from onebit.errors import OnebitError, UsageError
from onebit.export.gguf.tokenizer import add_tokenizer
from onebit.packed import Card
from onebit.packed.gguf_file import CARD, GROUP, Q1_0, gguf_package, pack_q1_0, unpack_q1_0

ARCHITECTURES = ("llama", "qwen3")
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "max_position_embeddings")  # fmt: skip
_PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")


class Weight(NamedTuple):
    """A parameter of a model.

    name: in its state_dict. values: float32, or the ±1 of a binary weight. scale: (O, I/128) float16 of a binary one.
    """

    name: str
    values: np.ndarray
    scale: np.ndarray | None = None


class ExportedGguf(NamedTuple):
    """What `export_gguf` wrote: size: bytes of the file; weights: type -> (number of tensors, numbers in them)."""

    file: Path
    size: int
    weights: dict[str, tuple[int, int]]

    @property
    def bits(self) -> float:
        """Bits a weight of the whole file."""
        return 8 * self.size / sum(count for _, count in self.weights.values())

    def __str__(self) -> str:
        rows = ", ".join(f"{tensors} {kind} ({count:,})" for kind, (tensors, count) in self.weights.items())
        return f"{self.file}: {size(self.size)}, {self.bits:.2f} bits a weight; tensors (weights): {rows}"


def block_scales(name: str, scale: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The scale of each block of a weight (O, I): (O, I/128) float16.

    Args:
        scale: (O,) or (O, G), or None for 1.

    Raises:
        UsageError: rows that are no blocks of 128, or a scale that is not normal in float16.
    """
    if len(shape) != 2 or shape[1] % GROUP:
        raise UsageError(f"{name}: shape {shape}, expected rows of a multiple of {GROUP} weights")
    blocks = shape[1] // GROUP
    scales = np.ones((shape[0], 1)) if scale is None else scale.reshape(shape[0], -1)
    if blocks % scales.shape[1]:
        raise UsageError(f"{name}: {scales.shape[1]} scales a row, expected one for every {GROUP} weights or more")
    with np.errstate(over="ignore"):
        half = np.repeat(scales, blocks // scales.shape[1], axis=1).astype(np.float16)
    if not (np.isfinite(half) & (half >= np.finfo(np.float16).tiny)).all():
        raise UsageError(f"{name}: scales from {scales.min():g} to {scales.max():g}, expected normal float16")
    return half


class Layout:
    """Where the parameters of a model are in its GGUF file.

    Args:
        config: of a transformers model, as a dict.

    Raises:
        UsageError: a model that llama.cpp would compute in another way.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        kind, rope = config.get("model_type"), config.get("rope_parameters") or config.get("rope_scaling") or {}
        if kind not in ARCHITECTURES:
            raise UsageError(
                f"GGUF takes models of type {' and '.join(ARCHITECTURES)}, got {kind!r}: for others, call "
                f"onebit.dense_(model), and convert its checkpoint with llama.cpp"
            )
        for size_ in _SIZES:
            if type(config.get(size_)) is not int or not 0 < config[size_] < 1 << 24:
                raise UsageError(f"config: {size_} is {config.get(size_)!r}, expected a positive integer")
        others = {
            "rope scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
            "partial rotary": rope.get("partial_rotary_factor", 1) != 1,
            "another activation than silu": config.get("hidden_act", "silu") != "silu",
            "sliding windows": {*(config.get("layer_types") or ())} - {"full_attention"},
            "experts": config.get("num_local_experts") or config.get("num_experts"),
        }
        if wrong := [what for what, found in others.items() if found]:
            raise UsageError(f"GGUF export of a {kind} with {' and '.join(wrong)} is not supported")
        gguf = gguf_package()
        self.config, self.kind = config, kind
        self.theta = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
        heads = config["num_attention_heads"]
        self.heads = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
        self.head_size = config.get("head_dim") or config["hidden_size"] // heads
        architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
        self._names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])

    def place(self, name: str) -> str:
        """The name of a parameter in the file."""
        place = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise UsageError(f"GGUF has no place for {name!r} in a {self.kind}")
        return place

    def rows(self, name: str, x: np.ndarray, *, back: bool = False) -> np.ndarray:
        """The rows of q and k in llama's order: in each head, row i of the first half stands before i of the second."""
        heads = self.heads.get(name.split(".")[-2]) if self.kind == "llama" else None
        if heads is None:
            return x
        half = len(x) // heads // 2
        return x.reshape(heads, *((half, 2) if back else (2, half)), *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    def required(self) -> Iterator[str]:
        """The tensors that every net has."""
        blocks = (f"blk.{n}.{part}" for n in range(self.config["num_hidden_layers"]) for part in _PARTS)
        return (f"{name}.weight" for name in ("token_embd", *blocks, "output_norm"))


def write_gguf(
    weights: Iterable[Weight],
    layout: Layout,
    path: AnyPath,
    *,
    tokenizer: Path | None,
    pre: str | None,
    rest: str,
    card: Card,
) -> ExportedGguf:
    """Write the file, read it back with the package `gguf`, and compare."""
    gguf, config = gguf_package(), layout.config
    writer = gguf.GGUFWriter(None, layout.kind)
    writer.add_name(card.summary or f"1-bit {layout.kind}")
    writer.add_string("onebit.version", __version__)
    writer.add_string(CARD, json.dumps(card.to_json()))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(layout.heads["q_proj"])
    writer.add_head_count_kv(layout.heads["k_proj"])
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(layout.head_size)
    writer.add_rope_freq_base(layout.theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    add_tokenizer(writer, tokenizer, config, pre)
    expected: dict[str, Any] = {}
    weights_of, tensors_of = Counter[str](), Counter[str]()
    for name, values, scale in weights:
        values, scale = layout.rows(name, values), None if scale is None else layout.rows(name, scale)
        kind = gguf.GGMLQuantizationType[Q1_0 if scale is not None else "F32" if values.ndim == 1 else rest.upper()]
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = gguf.GGMLQuantizationType.F16  # as llama.cpp does with rows that are no blocks
        data = gguf.quantize(values, kind) if scale is None else pack_q1_0(values, scale)
        writer.add_tensor(layout.place(name), data, raw_dtype=kind)
        expected[layout.place(name)] = kind, data if scale is None else (values, scale)
        weights_of[kind.name] += values.size
        tensors_of[kind.name] += 1
    for place in layout.required():
        if place not in expected:
            raise UsageError(f"the model has no weight for {place}")
    mostly = f"MOSTLY_{Q1_0 if tensors_of[Q1_0] else rest.upper()}"
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if mostly == "MOSTLY_F32" else mostly])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    with atomic_path(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        _compare(gguf.GGUFReader(temporary).tensors, expected)
        length = temporary.stat().st_size
    return ExportedGguf(Path(path), length, {kind: (tensors_of[kind], weights_of[kind]) for kind in sorted(tensors_of)})


def _compare(tensors: list[Any], expected: dict[str, Any]) -> None:
    """Raise OnebitError if the type, a sign, a scale or another byte of a tensor is not that of the model."""
    if len(tensors) != len(expected):
        raise OnebitError(f"the file has {len(tensors)} tensors, expected {len(expected)}")
    for tensor in tensors:
        kind, data = expected[tensor.name]
        if isinstance(data, tuple):
            same = all(map(np.array_equal, unpack_q1_0(tensor.data), data))
        else:
            same = np.array_equal(tensor.data.view(np.uint8), data.view(np.uint8))
        if tensor.tensor_type != kind or not same:
            raise OnebitError(f"{tensor.name} in the file is not that of the model")
