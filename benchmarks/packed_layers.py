"""Layers that hold bits (`onebit.packed_layers_`) against float32 ones: a dense layer and a block of a ViT."""

from __future__ import annotations

import argparse
import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import onebit
from benchmarks.shared import add_timing, set_up_process, speedups

timing = onebit.runtime.timing

TOLERANCE = 1e-4
"""Largest difference of packed layers from binary ones in float32, as a share of the largest output."""
COLUMNS = {"case": "", "torch_us": ",.1f", "packed_us": ",.1f", "torch_speedup": ".2f", "weights_to_float32": ".4f"}


class Block(nn.Module):
    """A block of a vision transformer: attention and a perceptron, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.perceptron(self.second(x))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--features", type=int, default=4096, help="inputs and outputs of the dense layer (4096)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="of the dense layer (1 64)")
    parser.add_argument("--width", type=int, default=384, help="of the block; a head has 64 (384)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 197], help="of one image (64 197)")
    add_timing(parser, rounds=11, seconds=0.05)


def measure(
    *, features: int, batches: list[int], width: int, tokens: list[int], threads: int, **turns: Any
) -> dict[str, Any]:
    """Rows of case, µs in torch and with packed layers, speed-up, and the share of float32 that the weights take.

    Raises:
        OnebitError: the packed layers give other outputs than the binary layers.
    """
    set_up_process(threads)
    torch.manual_seed(0)
    dense, block = nn.Linear(features, features, bias=False), Block(width, max(1, width // 64)).eval()
    cases: list[tuple[str, nn.Module, Tensor]]
    cases = [(f"dense {features} × {features}, batch {n}", dense, torch.randn(n, features)) for n in batches]
    cases += [(f"ViT block of width {width}, {n} tokens", block, torch.randn(1, n, width)) for n in tokens]
    rows = []
    with torch.inference_mode():
        for name, real, x in cases:
            around = nn.Sequential(copy.deepcopy(real)).eval()
            onebit.binarize_(around, weight_quantizer="xnor")
            expected = around(x)
            report = onebit.packed_layers_(around)
            if not float((around(x) - expected).abs().max()) <= TOLERANCE * float(expected.abs().max()):
                raise onebit.errors.OnebitError(f"{name}: the outputs of the packed layers differ from the binary ones")
            timed = [timing.Timed("torch", partial(real, x)), timing.Timed("packed", partial(around[0], x))]
            timing.take_turns(timed, **turns)
            row = {"case": name, **{f"{one.variant}_us": 1e6 * one.median for one in timed}}
            share = sum(one.packed_bytes for one in report.packed) / sum(one.float_bytes for one in report.packed)
            rows.append({**row, **speedups(timed[1], timed[0], "torch"), "weights_to_float32": share})
    return {"rows": rows}
