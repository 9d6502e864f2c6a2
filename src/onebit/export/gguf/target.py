"""Writes a language model as a GGUF file for llama.cpp, binary weights as tensors of type Q1_0."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onebit.common import __version__
from onebit.common.files import AnyPath, atomic_path
from onebit.common.text import size
from onebit.errors import OnebitError, UsageError, short
from onebit.export.gguf.tokenizer import add_tokenizer, copy_tokenizer
from onebit.packed import Card
from onebit.packed.gguf_file import CARD, GROUP, Q1_0, gguf_package, pack_q1_0, unpack_q1_0

ARCHITECTURES = ("llama", "qwen3")
MAX_LAYERS = 4096
_PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")
Weight = tuple[str, np.ndarray, np.ndarray | None]
"""(name in the state_dict, float32 values, None); of a binary weight (name, ±1, (O, I/128) float16 scales)."""


class ExportedGguf(NamedTuple):
    """What `export_gguf` wrote: size: bytes of the file; tensors: type -> (number of tensors, numbers in them)."""

    file: Path
    size: int
    tensors: dict[str, tuple[int, int]]

    @property
    def bits(self) -> float:
        """Bits a weight of the whole file."""
        return 8 * self.size / sum(numbers for _, numbers in self.tensors.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {kind} ({numbers:,})" for kind, (count, numbers) in self.tensors.items())
        return f"{self.file}: {size(self.size)}, {self.bits:.2f} bits a weight; tensors (weights): {parts}"


def block_scales(name: str, scale: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The scale of each block of a weight (O, I): (O, I/128) float16.

    Args:
        scale: (O,) or (O, G), or None for 1.

    Raises:
        UsageError: rows that are no blocks of 128, or a scale that is not normal in float16.
    """
    scales = np.ones((shape[0], 1)) if scale is None else scale.reshape(shape[0], -1)
    if len(shape) != 2 or shape[1] % (GROUP * scales.shape[1]):
        raise UsageError(
            f"{name}: {scales.shape[1]} scales for rows of {shape[1:]}, expected groups of {GROUP} weights"
        )
    with np.errstate(over="ignore"):
        half = np.repeat(scales, shape[1] // GROUP // scales.shape[1], axis=1).astype(np.float16)
    if not (np.isfinite(half) & (half >= np.finfo(np.float16).tiny)).all():
        raise UsageError(f"{name}: scales from {scales.min():g} to {scales.max():g}, expected normal float16")
    return half


class Layout:
    """Where the parameters of a model are in its GGUF file.

    Args:
        config: of a transformers model, as a dict; UsageError for what llama.cpp would compute in another way.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config, self.kind, layers = config, config.get("model_type"), config.get("num_hidden_layers")
        if self.kind not in ARCHITECTURES:
            way = "for others convert what onebit.dense_(model) gives with llama.cpp"
            raise UsageError(f"GGUF takes models of type {' and '.join(ARCHITECTURES)}, got {self.kind!r}: {way}")
        if type(layers) is not int or not 0 < layers <= MAX_LAYERS:
            raise UsageError(f"config: num_hidden_layers is {short(layers)}, expected 1 to {MAX_LAYERS}")
        heads = config["num_attention_heads"]
        self.heads = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
        self.rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        self._refuse_others()
        gguf = gguf_package()
        self._names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[self.kind.upper()], layers)

    def facts(self) -> dict[str, int | float]:
        """Key in the file -> what llama.cpp computes with."""
        config = self.config
        head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        theta = self.rope.get("rope_theta", config.get("rope_theta", 10_000))
        facts = {
            "embedding_length": config["hidden_size"],
            "feed_forward_length": config["intermediate_size"],
            "block_count": config["num_hidden_layers"],
            "attention.head_count": self.heads["q_proj"],
            "attention.head_count_kv": self.heads["k_proj"],
            "attention.key_length": head_size,
            "attention.value_length": head_size,
            "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
            "rope.dimension_count": head_size,
            "rope.freq_base": float(theta),
        }
        return {f"{self.kind}.{key}": value for key, value in facts.items()}

    def _refuse_others(self) -> None:
        config, rope, layers = self.config, self.rope, {*(self.config.get("layer_types") or ())}
        scaling, partial = rope.get("rope_type", rope.get("type", "default")), "partial_rotary_factor"
        others = {
            "rope scaling": scaling != "default" or "full_attention" in rope,  # of each type of layer
            "partial rotary": rope.get(partial, config.get(partial)) not in (None, 1),
            "another activation than silu": config.get("hidden_act", "silu") != "silu",
            "sliding windows": layers - {"full_attention"} or config.get("use_sliding_window"),
            "attention that is not causal": config.get("is_causal") is False,
            "experts": config.get("num_local_experts") or config.get("num_experts"),
            "biases": self.kind == "qwen3" and config.get("attention_bias"),  # llama.cpp loads some of them
        }
        if wrong := [what for what, found in others.items() if found]:
            raise UsageError(f"GGUF of a {self.kind} with {' and '.join(wrong)} is not supported")

    def place(self, name: str) -> str:
        """The name of a parameter in the file."""
        place = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise UsageError(f"GGUF has no place for {name!r} in a {self.kind}")
        return place

    def rows(self, name: str, x: Any, *, back: bool = False) -> Any:
        """The rows of q and k in llama's order: in each head, row i of the first half stands before i of the second."""
        heads = self.heads.get(name.split(".")[-2]) if self.kind == "llama" else None
        if heads is None or x is None:
            return x
        half = len(x) // heads // 2
        return x.reshape(heads, *((half, 2) if back else (2, half)), *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write_gguf(
    weights: Iterable[Weight], layout: Layout, path: AnyPath, *, tokenizer: Path | None, pre: str | None, rest: str,
    card: Card,
) -> ExportedGguf:  # fmt: skip
    """Write the file, read it back with the package `gguf`, and compare."""
    gguf, config = gguf_package(), layout.config
    writer, expected, counts = gguf.GGUFWriter(None, layout.kind), dict[str, tuple[Any, np.ndarray]](), Counter[str]()
    writer.add_name(card.summary or f"1-bit {layout.kind}")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    for key, value in layout.facts().items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("onebit.version", __version__)
    writer.add_string(CARD, json.dumps(card.to_json()))
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    elif tokenizer.suffix == ".gguf":
        copy_tokenizer(writer, tokenizer, config["vocab_size"])
    else:
        add_tokenizer(writer, tokenizer, config, pre)
    for name, values, scale in weights:
        values, scale, place = layout.rows(name, values), layout.rows(name, scale), layout.place(name)
        if place in ("token_embd.weight", "output.weight") and len(values) != config["vocab_size"]:
            raise UsageError(f"{name} has {len(values):,} rows, but config.vocab_size is {config['vocab_size']:,}")
        kind = gguf.GGMLQuantizationType[Q1_0 if scale is not None else "F32" if values.ndim == 1 else rest.upper()]
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = gguf.GGMLQuantizationType.F16  # as llama.cpp does with rows that are no blocks
        data = gguf.quantize(values, kind) if scale is None else pack_q1_0(values, scale)
        if scale is not None and not all(map(np.array_equal, unpack_q1_0(data), (values, scale))):
            raise OnebitError(f"the blocks of {name} are not those of the model")
        writer.add_tensor(place, data, raw_dtype=kind)
        expected[place] = kind, data
        counts[kind.name] += values.size
    blocks = (f"blk.{n}.{part}" for n in range(config["num_hidden_layers"]) for part in _PARTS)
    if missing := {f"{place}.weight" for place in ("token_embd", *blocks, "output_norm")} - expected.keys():
        raise UsageError(f"the model has no weight for {min(missing)}")
    mostly = f"MOSTLY_{Q1_0 if counts[Q1_0] else rest.upper()}".replace("MOSTLY_F32", "ALL_F32")
    writer.add_file_type(gguf.LlamaFileType[mostly])
    with atomic_path(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        written = {tensor.name: tensor for tensor in gguf.GGUFReader(temporary).tensors}
        for place, (kind, data) in expected.items():
            tensor = written[place]
            if tensor.tensor_type != kind or not np.array_equal(tensor.data.view(np.uint8), data.view(np.uint8)):
                raise OnebitError(f"{place} in the file is not that of the model")
        length = temporary.stat().st_size
    tensors = Counter(tensor.tensor_type.name for tensor in written.values())
    return ExportedGguf(Path(path), length, {kind: (tensors[kind], counts[kind]) for kind in sorted(tensors)})
