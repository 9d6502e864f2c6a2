"""Steps of nets of ordinary torch modules after `onebit.binarize_`, in a loop of one's own, against plain torch.

A float net and its binary ones take turns: forward, loss, backward and Adam, on a batch of noise in channels_last.
--profile adds the milliseconds of the operations that take longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from benchmarks.shared import Clock, Rows, rows
from benchmarks.training_step import longest_operations

COLUMNS = {"net": "", "precision": "", "inputs": "", "ms": ".1f", "twin_ms": ".1f", "ratio": ".3f"}
CLOCK = Clock(seconds=0.2)
INPUTS = {"real": None, "signs": "ste_sign"}


def convolution(inputs: int, outputs: int, taps: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution and its BatchNorm."""
    layer = nn.Conv2d(inputs, outputs, taps, stride, taps // 2, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = convolution(inputs, outputs, stride=stride), convolution(outputs, outputs)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        self.shortcut = nn.Sequential(*(convolution(inputs, outputs, 1, stride) if inputs != outputs else ()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H/stride, W/stride)."""
        return F.relu(self.body(x) + self.shortcut(x))


def resnet20() -> nn.Module:
    """The net of He et al. (arXiv:1512.03385) for CIFAR-10, with convolutions as shortcuts where widths change."""
    sizes = [(16, 16, 1)] * 3 + [(16, 32, 2), *[(32, 32, 1)] * 2, (32, 64, 2), *[(64, 64, 1)] * 2]
    blocks = [Block(*size) for size in sizes]
    return nn.Sequential(
        *convolution(3, 16), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def vgg_small() -> nn.Module:
    """Six convolutions of 128 to 512 channels."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)):
        layers += [*convolution(inputs, outputs), nn.Hardtanh(), *([nn.MaxPool2d(2)] if inputs == outputs else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8192, 10))


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {"resnet20": (resnet20, 125), "vgg_small": (vgg_small, 50)}
"""Name -> net and batch."""


def step_of(net: str, inputs: str | None, precision: str) -> Callable[[], Any]:
    """A training step of a float net, or of its binary one with these inputs, whose first and last layers stay real."""
    torch.manual_seed(0)
    make, batch = NETS[net]
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    x = x.contiguous(memory_format=torch.channels_last)
    model = make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer: Any = torch.optim.Adam(model.parameters(), fused=True)
    if inputs is not None:

        def inside(_: str, layer: nn.Module) -> bool:
            return isinstance(layer, nn.Conv2d) and layer.in_channels > 3

        onebit.binarize_(model, input_quantizer=INPUTS[inputs], where=inside)
        optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=1e-3), fused=True))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(
    *,
    nets: Sequence[str] = ("resnet20", "vgg_small"),
    precisions: Sequence[str] = ("fp32", "bf16"),
    profile: bool = False,
    clock: Clock = CLOCK,
) -> Rows:
    """Rows of net, precision, inputs, ms, twin_ms and the median ratio of a step.

    Args:
        nets: some of resnet20,vgg_small
        precisions: some of fp32,bf16
        profile: add the longest operations
    """
    for net in nets:
        for precision in precisions:
            steps = {inputs: step_of(net, inputs, precision) for inputs in INPUTS}
            steps = {"twin": step_of(net, None, precision), **steps}
            times = clock.time(steps)
            for row in rows(times, [*INPUTS], "ms", twin=["twin"]):
                longest = {"longest": longest_operations(steps[row["variant"]])} if profile else {}
                about = {"net": net, "precision": precision, "inputs": row["variant"]}
                yield {**about, **row, "ratio": 1 / row["twin_speedup"], **longest}
