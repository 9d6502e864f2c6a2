"""Layers that hold bits (`onebit.packed_layers_`) against float32 ones: a dense layer and a block of a ViT."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

import onebit
from benchmarks.shared import Clock, Rows, compare, rows

DENSE, BLOCK = (4096, (1, 64)), (384, (64, 197))
"""Width, and batches of the dense layer; width, of 64 in a head, and tokens of one image."""
TOLERANCE = 1e-4
"""Largest difference of packed layers from binary ones in float32, as a share of the largest output."""
CLOCK = Clock(seconds=0.05)
COLUMNS = {"case": "", "torch_us": ",.1f", "us": ",.1f", "torch_speedup": ".2f", "weights_to_float32": ".4f"}


class Block(nn.Module):
    """A block of a vision transformer: attention and a perceptron, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.perceptron(self.second(x))


def measure(*, clock: Clock = CLOCK) -> Rows:
    """Rows of case, µs in torch and with packed layers, speed-up, and the share of float32 that the weights take."""
    torch.manual_seed(0)
    (features, batches), (width, tokens) = DENSE, BLOCK
    dense, block = nn.Linear(features, features, bias=False), Block(width).eval()
    cases: list[tuple[str, nn.Module, Tensor]]
    cases = [(f"dense {features} × {features}, batch {n}", dense, torch.randn(n, features)) for n in batches]
    cases += [(f"ViT block of width {width}, {n} tokens", block, torch.randn(1, n, width)) for n in tokens]
    for name, real, x in cases:
        binary = nn.Sequential(copy.deepcopy(real)).eval()
        onebit.binarize_(binary, weight_quantizer="xnor")
        with torch.inference_mode():
            expected = binary(x)
            report = onebit.packed_layers_(binary)
            compare(name, binary(x), expected, TOLERANCE)
            times = clock.time({"torch": partial(real, x), "packed": partial(binary[0], x)})
        share = sum(one.packed_bytes for one in report.packed) / sum(one.float_bytes for one in report.packed)
        (row,) = rows(times, ["packed"], torch=["torch"])
        yield {"case": name, **row, "weights_to_float32": share}
