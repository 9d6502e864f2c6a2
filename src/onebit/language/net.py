"""The net of a GGUF file: a llama, a qwen2 or a qwen3, its matrices as they lie in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onebit.common.files import AnyPath
from onebit.errors import FormatError, short
from onebit.packed.gguf_file import IDLE, NOT_COMPUTED, GgufFile, GgufTensor, read_gguf

INTERLEAVED = {"llama": True, "qwen2": False, "qwen3": False}
"""Architecture -> whether neighbors are rotated, not the halves of a head."""
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm")
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q1_0")
UNIT, MAX_HEAD = 32, 512
"""Widths are multiples of the first; sums of int8 keys fit 32 bits up to the second."""
_SCALING = ("type", "factor", "original_context_length", "attn_factor", "yarn_beta_fast", "yarn_beta_slow")


@dataclass(frozen=True, eq=False)
class Matrix:
    """weight: (outputs, inputs). bias: (outputs,) float32, or None."""

    weight: GgufTensor
    bias: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Net:
    """Sizes and weights.

    Args:
        context: tokens that it was trained on. eps: of the norms.
        angles: of position 1, for each pair of a head: (head_size / 2,) float64.
        magnitude: factor of rotated numbers.
        matrices: embedding, head, then those of each layer in the order of `MATRICES`.
        norms: the last one, then those of each layer in the order of `NORMS`, None where there is none; float32.
        bytes_: of all tensors.
    """

    kind: str
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    eps: float
    angles: np.ndarray
    magnitude: float
    matrices: tuple[Matrix, ...]
    norms: tuple[np.ndarray | None, ...]
    bytes_: int

    def rotation(self, positions: int) -> np.ndarray:
        """Cosines and sines: (positions, head_size / 2, 2) float32."""
        angles = np.arange(positions)[:, None] * self.angles
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32) * np.float32(self.magnitude)


def read_net(path: AnyPath) -> tuple[Net, GgufFile]:
    """The net of a file, in private memory, and the file.

    Raises:
        FormatError: a damaged file; an architecture, a type of tensors or a fact that it cannot run, by name.
    """
    file = read_gguf(path, private=True)
    try:
        return _net(file), file
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise FormatError(f"{path}: cannot be run: {what}") from None


def _net(file: GgufFile) -> Net:
    kind, tensors = file.facts.get("general.architecture"), dict(file.tensors)
    if not isinstance(kind, str) or kind not in INTERLEAVED:
        raise ValueError(f"got the architecture {short(kind)}, expected {', '.join(INTERLEAVED)}")
    facts = {key.removeprefix(f"{kind}."): value for key, value in file.facts.items() if key.startswith(f"{kind}.")}
    arrays = [key for key in file.arrays if key.startswith(f"{kind}.")]
    width, inner, layers, heads = (
        _count(facts.pop(key))
        for key in ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
    )
    kv_heads = _count(facts.pop("attention.head_count_kv", heads))
    head_size = _count(facts.pop("attention.key_length", width // heads))
    eps, context = facts.pop("attention.layer_norm_rms_epsilon"), _count(facts.get("context_length", 4096))
    if heads % kv_heads or any(size % UNIT for size in (width, inner, head_size)) or head_size > MAX_HEAD:
        raise ValueError(f"widths {width}, {inner} and {head_size} of {heads} and {kv_heads} heads")
    if not 0 <= eps < 1 or facts.pop("attention.value_length", head_size) != head_size:
        raise ValueError("values of another size than keys, or no epsilon")
    if facts.pop("rope.dimension_count", head_size) != head_size:
        raise ValueError("a rotation of a part of each head")
    base = float(facts.pop("rope.freq_base", 10_000.0))
    scaling = {key: facts.pop(f"rope.scaling.{key}", None) for key in _SCALING}
    for key, value in [*facts.items(), *((key, "an array") for key in arrays)]:
        if key not in NOT_COMPUTED and value not in IDLE.get(key, []):
            raise ValueError(f"{short(key)} is {short(value)}")
    used = set()

    def vector(name: str, size: int, *, needed: bool = True) -> np.ndarray | None:
        if not needed and name not in tensors:
            return None
        used.add(name)
        if tensors[name].shape != (size,) or tensors[name].kind not in ("F32", "F16"):
            raise ValueError(f"tensor {name} is {tensors[name].kind} of shape {tensors[name].shape}")
        return tensors[name].values()

    def matrix(name: str, outputs: int, inputs: int) -> Matrix:
        weight = tensors[f"{name}.weight"]
        used.add(f"{name}.weight")
        if weight.kind not in KINDS:
            raise ValueError(f"tensor {name} has the type {weight.kind}, expected {', '.join(KINDS)}")
        if weight.shape != (outputs, inputs):
            raise ValueError(f"tensor {name} has shape {weight.shape}, expected ({outputs}, {inputs})")
        return Matrix(weight, vector(f"{name}.bias", outputs, needed=False))

    queries, pairs, shape = heads * head_size, kv_heads * head_size, tensors["token_embd.weight"].shape
    vocabulary = shape[0]
    tied = "output.weight" not in tensors
    matrices = [matrix("token_embd", vocabulary, width), matrix("token_embd" if tied else "output", vocabulary, width)]
    norms = [vector("output_norm.weight", width)]
    outputs = dict(zip(MATRICES, (queries, pairs, pairs, width, inner, inner, width), strict=True))
    inputs = {"attn_output": queries, "ffn_down": inner}
    for n in range(layers):
        matrices += [matrix(f"blk.{n}.{name}", outputs[name], inputs.get(name, width)) for name in MATRICES]
        norms += [vector(f"blk.{n}.{name}.weight", width) for name in NORMS[:2]]
        norms += [vector(f"blk.{n}.{name}.weight", head_size, needed=kind == "qwen3") for name in NORMS[2:]]
    factors = vector("rope_freqs.weight", head_size // 2, needed=False)
    if others := tensors.keys() - used:
        raise ValueError(f"tensor {short(min(others))} has no place in a {kind}")
    if matrices[0].bias is not None:
        raise ValueError("an embedding with a bias")
    angles, magnitude = _angles(base, head_size, scaling, context)
    return Net(
        kind, width, inner, layers, heads, kv_heads, head_size, vocabulary, context, float(np.float32(eps)),
        angles if factors is None else angles / factors.astype(np.float64), magnitude, tuple(matrices), tuple(norms),
        sum(tensor.data.nbytes for tensor in tensors.values()),
    )  # fmt: skip


def _count(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError(f"got {short(value)}, expected a positive number")
    return value


def _angles(base: float, size: int, scaling: Mapping[str, Any], context: int) -> tuple[np.ndarray, float]:
    """The angle of each pair at position 1, and the factor of rotated numbers.

    Scaling "linear" divides angles; "yarn" (Peng et al. 2023, arXiv:2309.00071, 3.2 to 3.4) divides those of slow
    pairs, blends those between, and has a factor, 1 + 0.1 ln(factor).
    """
    if not base > 0:
        raise ValueError(f"rope.freq_base is {base}")
    pair = np.arange(size // 2)
    angles, kind, factor = base ** (-2.0 * pair / size), scaling["type"] or "none", float(scaling["factor"] or 1)
    if kind in ("none", "linear"):
        return angles / (factor if kind == "linear" or scaling["type"] is None else 1.0), 1.0
    if kind != "yarn":
        raise ValueError(f"rope.scaling.type is {short(kind)}")
    trained = _count(scaling["original_context_length"] or context)

    def pair_of(turns: float) -> float:
        """The pair that turns so often in the context of the training."""
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    fast, slow = (float(scaling[f"yarn_beta_{name}"] or turns) for name, turns in (("fast", 32), ("slow", 1)))
    low, high = max(0, math.floor(pair_of(fast))), min(size - 1, math.ceil(pair_of(slow)))
    kept = 1 - np.clip((pair - low) / max(0.001, high - low), 0, 1)
    return angles / factor * (1 - kept) + angles * kept, (scaling["attn_factor"] or 1) * (1 + 0.1 * math.log(factor))
