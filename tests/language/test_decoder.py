"""The C decoder has the bits of the numpy reference, and both are near to the float32 net."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.language.native_decoder import NativeDecoder
from onebit.language.net import Net, read_net
from onebit.language.reference import MAX_SUM, ReferenceDecoder, _exp, _rounded
from onebit.native import instruction_sets
from onebit.native.library import compiled_sets
from support.compiling import compiled
from support.covering import covering
from support.gguf_models import assert_same_bits, tokens_of, write_model

native = pytest.mark.skipif(not instruction_sets(), reason="no C compiler")
CASES = {
    "all one-bit": {},
    "llama": {"kind": "llama", "ends": "Q8_0", "tied": False, "biases": True},
    "qwen2": {"kind": "qwen2", "ends": "F16", "biases": True},
    "no one-bit": {"weights": "BF16", "ends": "F32", "tied": False},
    "bytes": {"weights": "Q8_0", "ends": "BF16", "kind": "llama"},
    "halves": {"weights": "F16", "ends": "Q1_0"},
}


@native
@pytest.mark.parametrize(("case", "kv", "exact"), covering(product(CASES, ["float16", "int8"], [False, True])))
def test_every_instruction_set_has_the_bits_of_the_reference(case: str, kv: str, exact: bool, tmp_path: Path) -> None:
    assert_same_bits(write_model(tmp_path / "x.gguf", **CASES[case]), 20, kv=kv, exact=exact)


@native
@pytest.mark.parametrize(
    "shape",
    [
        (128, 128, 1, 1, 1, 32, 33),  # a panel that is not full, a head of its own
        (384, 128, 1, 6, 2, 64, 64),  # three heads for each key, an odd number of blocks
        (128, 384, 1, 3, 3, 96, 31),  # heads that are not whole blocks of 128
        (2176, 128, 1, 2, 1, 64, 40),  # more blocks than tables at once
    ],
)
def test_odd_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights": "Q8_0"} if shape[3] * shape[5] % 128 else {}
    for kv in ("float16", "int8"):
        assert_same_bits(write_model(tmp_path / "x.gguf", shape, **options), 9, kv=kv)


@native
def test_tables_of_words_have_the_same_bits(tmp_path: Path) -> None:
    """The way of AVX-512, in portable C: only its two instructions are others."""
    compiler = str(shutil.which(os.environ.get("CC", "cc")))
    objects = compiled([compiler, "-O0", "-fPIC", "-DWORD_TABLES"], "other", tmp_path)
    subprocess.run([compiler, "-shared", *objects, "-lm", "-o", str(tmp_path / "words.so")], check=True)
    isas = compiled_sets(ctypes.CDLL(str(tmp_path / "words.so")))
    for shape, options in (((128, 256, 2, 4, 2, 64, 300), {}), ((384, 128, 1, 6, 2, 64, 225), {"tied": False})):
        assert_same_bits(write_model(tmp_path / "x.gguf", shape, **options), 13, isas=isas)


@native
@pytest.mark.parametrize("kv", ["float16", "int8"])
def test_texts_of_several_segments(kv: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", (128, 128, 1, 2, 1, 64, 50), weights="Q8_0")
    assert_same_bits(path, 530, kv=kv)


@native
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 1e-40, 0.0])
def test_extreme_numbers_have_the_same_bits_and_stay_what_they_are(value: float, tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf")
    nets = [read_net(path)[0] for _ in range(2)]
    for net in nets:
        norm = net.norms[1]
        assert norm is not None
        norm.flags.writeable = True
        norm[5] = value
    isa, tokens = list(instruction_sets().values())[-1], tokens_of(nets[0], 6)
    for kv in ("float16", "int8"):
        options = {"context": 6, "kv": kv, "exact": False}
        expected = ReferenceDecoder(nets[0], **options).run(tokens, 0, all_rows=True)
        found = NativeDecoder(nets[1], isa, threads=2, **options).run(tokens, 0, all_rows=True)
        np.testing.assert_array_equal(found, expected)
        assert np.isfinite(expected).all() == np.isfinite(value)
        nets[1] = read_net(path)[0]  # its weights are turned
        nets[1].norms[1].flags.writeable = True  # type: ignore[union-attr]
        nets[1].norms[1][5] = value  # type: ignore[index]


def test_rounded_inputs_and_their_sums_fit_16_bits() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 128)) * np.exp(rng.normal(0, 3, (500, 128))) * 10.0 ** rng.integers(-20, 20, (500, 1))
    x = np.concatenate([x, np.ones((1, 128)), np.eye(128)]).astype(np.float32)
    integers, units = _rounded(x.reshape(-1))
    assert np.abs(integers).sum(axis=1).max() <= 32767
    np.testing.assert_allclose(units, np.abs(x.astype(np.float64)).sum(axis=1) / MAX_SUM, rtol=1e-5)
    assert (np.abs(integers * units[:, None].astype(np.float64) - x) <= 0.505 * units[:, None]).all()


def test_exp_is_near_to_numpys() -> None:
    x = np.linspace(-87, 88, 100_001, dtype=np.float32)
    np.testing.assert_allclose(_exp(x), np.exp(x.astype(np.float64)), rtol=2e-6)
    assert _exp(np.float32([-1e9]))[0] < 1.7e-38


def float64_net(net: Net, tokens: np.ndarray) -> np.ndarray:
    """Logits of a net in float64, written down as transformers has it: no code of the decoder."""
    real = [matrix.weight.values().astype(np.float64) for matrix in net.matrices]
    bias = [0 if matrix.bias is None else matrix.bias.astype(np.float64) for matrix in net.matrices]

    def norm(x: np.ndarray, weight: Any) -> np.ndarray:
        return x if weight is None else x / np.sqrt((x * x).mean(-1, keepdims=True) + net.eps) * weight

    def turn(x: np.ndarray) -> np.ndarray:
        """(T, heads, size)."""
        angle = np.arange(len(x))[:, None, None] * net.angles
        a, b = (x[..., ::2], x[..., 1::2]) if net.kind == "llama" else np.split(x, 2, axis=-1)
        pair = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return net.magnitude * (
            np.stack(pair, -1).reshape(x.shape) if net.kind == "llama" else np.concatenate(pair, -1)
        )

    x = real[0][tokens]
    causal = np.where(np.tri(len(tokens)), 0, -np.inf)
    for n in range(net.layers):
        q, k, v, out, gate, up, down = range(2 + 7 * n, 9 + 7 * n)
        norms = net.norms[1 + 4 * n : 5 + 4 * n]
        h = norm(x, norms[0])
        heads = [(h @ real[m].T + bias[m]).reshape(len(x), -1, net.head_size) for m in (q, k, v)]
        queries, keys = turn(norm(heads[0], norms[2])), turn(norm(heads[1], norms[3]))
        keys, values = (np.repeat(one, net.heads // net.kv_heads, axis=1) for one in (keys, heads[2]))
        scores = np.einsum("qhi,khi->hqk", queries, keys) / np.sqrt(net.head_size) + causal
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hqk,khi->qhi", weights / weights.sum(-1, keepdims=True), values)
        x = x + attended.reshape(len(x), -1) @ real[out].T + bias[out]
        h = norm(x, norms[1])
        g = h @ real[gate].T
        x = x + (g / (1 + np.exp(-g)) * (h @ real[up].T)) @ real[down].T
    return norm(x, net.norms[0]) @ real[1].T


def divergence(logits: np.ndarray, expected: np.ndarray) -> float:
    """Mean KL divergence of two (T, vocabulary)."""
    p, q = (x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)
            for x in (expected.astype(np.float64), logits.astype(np.float64)))  # fmt: skip
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("case", list(CASES))
def test_probabilities_are_near_to_those_in_float64(case: str, tmp_path: Path) -> None:
    net, _ = read_net(write_model(tmp_path / "x.gguf", **CASES[case]))
    tokens = tokens_of(net, 30)
    expected = float64_net(net, tokens)
    for kv, exact, most in (("float16", False, 1e-5), ("float16", True, 1e-7), ("int8", False, 1e-4)):
        logits = ReferenceDecoder(net, context=30, kv=kv, exact=exact).run(tokens, 0, all_rows=True)
        assert divergence(logits, expected) < most, (kv, exact)
