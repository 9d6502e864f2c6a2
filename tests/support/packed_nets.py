"""Random packed nets of images and of other inputs, made without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onebit.export import EXPORTS, Exported, export_net
from onebit.packed import Certificate, InputSpec, Node, PackedNet, nodes as op
from onebit.packed.bits import pack_signs

PACKED_TARGETS = [name for name, target in EXPORTS.items() if target.packed]


def export_to(target: str, net: PackedNet, folder: Path, **options: Any) -> Exported:
    """A net exported to the file or folder `net` of a folder."""
    return export_net(net, target, folder / f"net{(*EXPORTS[target].suffixes, '')[0]}", **options)


class Builder:
    """Appends nodes with random arrays; by default each reads the one before it."""

    def __init__(self, shape: tuple[int, ...], *, seed: int = 0, coding: str = "integer") -> None:
        self.rng = np.random.default_rng(seed)
        channels = shape[0]
        self.input = InputSpec(shape=shape)
        if coding in ("values", "float32"):
            self.input = InputSpec(shape=shape, coding="values", dtype="float32" if coding == "float32" else "uint8")
        if coding == "standardise":
            moments = {"mean": self.real(channels) * 9 + np.float32(120), "std": np.full(channels, 60, np.float32)}
            self.input = InputSpec(shape=shape, coding=coding, **moments)
        self.nodes: list[Node] = []
        self.values = {"input": self.input.value}
        self.last = "input"

    def real(self, *size: int, stddev: float = 1.0) -> np.ndarray:
        return (self.rng.standard_normal(size) * stddev).astype(np.float32)

    def add(self, kind: type[Node], *inputs: str, name: str = "", **fields: Any) -> str:
        name = name or f"n{len(self.nodes)}"
        self.nodes.append(kind(inputs=inputs or (self.last,), output=name, **fields))
        self.values[name] = self.nodes[-1].infer(*(self.values[source] for source in self.nodes[-1].inputs))
        self.last = name
        return name

    def signs(self, outputs: int, terms: int, *, scale: bool = False, centre: bool = False) -> dict[str, Any]:
        fields: dict[str, Any] = {"signs": pack_signs(self.rng.choice([-1, 1], (outputs, terms))), "in_features": terms}
        fields["scale"] = np.abs(self.real(outputs)) + np.float32(0.1) if scale else None
        fields["centre"] = self.real(outputs) if centre else None
        return fields

    def threshold(self, channels: int, *, most: int = 20) -> str:
        at = self.rng.integers(-most, most, channels).astype(np.int32)
        return self.add(op.Threshold, threshold=at, direction=self.rng.choice(np.array([-1, 1], np.int8), channels))

    def affine(self, channels: int) -> str:
        return self.add(op.Affine, scale=self.real(channels), shift=self.real(channels))

    def levels(self, low: float, high: float) -> str:
        """Signs as two real values, the same for all channels."""
        channels = self.values[self.last].shape[0]
        scale, shift = (np.full(channels, number, np.float32) for number in ((high - low) / 2, (high + low) / 2))
        return self.add(op.Affine, scale=scale, shift=shift)

    def requantize(self, *inputs: str, least: int = 0, most: int = 255) -> str:
        """Multipliers of either sign with which most results are inside the range, and some at its ends."""
        values = [self.values[name] for name in inputs or (self.last,)]
        channels, shift = values[0].shape[0], int(self.rng.integers(8, 30))
        sign = self.rng.choice([-1, 1], (len(values), channels))
        multiplier = sign * self.rng.uniform(0.5, 1.2, sign.shape) * 2.0**shift * (most - least)
        multiplier /= np.array([[(x.bound or 1) ** 0.75] for x in values])
        multiplier = multiplier.clip(-(2**31) + 1, 2**31 - 1).astype(np.int32)
        # the middle of the inputs becomes a number in the range, not far from its middle
        offset = self.rng.uniform(0.7 * least + 0.3 * most, 0.3 * least + 0.7 * most, channels) * 2.0**shift
        offset += 2.0 ** (shift - 1) - np.array([sum(x.limits) / 2 for x in values]) @ multiplier
        fields = {"multiplier": multiplier, "offset": offset.astype(np.int64), "right_shift": shift}
        return self.add(op.Requantize, *inputs, least=least, most=most, **fields)

    def net(self, output: str | tuple[str, ...] | dict[str, str] | None = None) -> PackedNet:
        """The net whose output is that of the last node, or `output`."""
        return PackedNet(
            inputs={"input": self.input}, nodes=tuple(self.nodes), output=output or self.last, name="random"
        )

    def dense(self, outputs: int) -> None:
        """A dense layer with one-bit weights."""
        self.add(op.Dense, **self.signs(outputs, self.values[self.last].shape[0]))


def sign_net(seed: int = 0) -> PackedNet:
    """Convolutions, pools of integers, paddings, sums and concatenations of integers; no reals before the last map."""
    b = Builder((3, 9, 8), seed=seed)
    b.add(op.Conv, **b.signs(6, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(op.MaxPool, kernel=(2, 2), stride=(2, 2), padding=(1, 0, 0, 0))
    signs = b.threshold(6, most=300)
    b.add(op.Conv, **b.signs(6, 9), kernel=(1, 3), dilation=(1, 2), padding=(0, 0, 2, 2), groups=2, padding_value=-1)
    b.add(op.AveragePool, kernel=(2, 2), padding=(0, 1, 1, 1), sums=1)
    crop = b.add(op.Slice, start=(0, 0, 1), stop=(6, 5, 5))
    sums = b.add(op.Add, signs, crop)
    b.threshold(6, most=4)
    b.add(op.Conv, **b.signs(4, 6 * 4), kernel=(2, 2), padding=(1, 0, 0, 1), stride=(2, 1))
    bordered = b.add(op.Pad, channels=(1, 0), padding=(1, 0, 0, 0), value=-1)
    shortcut = b.add(op.Slice, sums, stop=(6, 5, 4), step=(2, 1, 1))
    b.add(op.Pad, shortcut, padding=(0, 1, 0, 1))
    one = b.add(op.Flatten)
    two = b.add(op.Flatten, bordered)
    b.add(op.Concat, one, two, one)
    b.add(op.Relu)
    b.dense(5)
    b.affine(5)
    return b.net()


def real_net(seed: int = 0) -> PackedNet:
    """Scales, centers, real weights, transposed convolutions, averages and a residual sum."""
    b = Builder((2, 7, 6), seed=seed, coding="standardise")
    b.add(op.RealConv, weight=b.real(4, 2 * 9), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.affine(4)
    x = b.add(op.Relu)
    b.add(op.Conv, **b.signs(4, 9, scale=True, centre=True), kernel=(3, 3), padding=(1, 1, 1, 1), groups=4)
    y = b.affine(4)
    x = b.add(op.Add, y, x)
    b.add(op.ConvTranspose, **b.signs(6, 2 * 4, scale=True), kernel=(2, 2), stride=(2, 2), groups=2, extra=(1, 0))
    b.add(op.Hardtanh)
    b.add(op.Prelu, slope=b.real(6))
    b.add(op.AveragePool, kernel=(3, 2), stride=(2, 2), padding=(1, 1, 1, 0), count_padding=1)
    b.add(op.Sign, shift=b.real(6))
    b.add(op.ConvTranspose, **b.signs(3, 6 * 2, centre=True), kernel=(2, 1), padding=(1, 0, 0, 0), dilation=(2, 1))
    b.add(op.RealConvTranspose, weight=b.real(2, 3 * 4), kernel=(2, 2), stride=(3, 1), padding=(1, 1, 0, 1))
    b.add(op.Slice, start=(0, 1, 0), stop=(2, 9, 5), step=(1, 2, 2))
    b.add(op.AdaptiveAveragePool, size=(3, 2))
    b.add(op.Take, axis=0, indices=np.int32([1, 0]))
    y = b.add(op.Flatten)
    b.add(op.MaxPool, x, kernel=(2, 2), stride=(2, 3), padding=(1, 0, 1, 1))
    b.add(op.AveragePool, kernel=(2, 2), stride=(2, 1), padding=(0, 0, 1, 0))
    b.add(op.Pad, padding=(0, 1, 0, 0), value=-1)
    x = b.add(op.Flatten)
    b.add(op.Concat, x, y)
    b.add(op.RealDense, weight=b.real(3, b.values[b.last].shape[0]))
    b.add(op.Affine, shift=b.real(3))
    return b.net()


def integer_net(seed: int = 0) -> PackedNet:
    """Activations of 8, 4 and 2 bits, signed ones too: residual sums, pools, all convolutions, a real layer."""
    b = Builder((3, 8, 9), seed=seed, coding="values")
    b.requantize(least=-128, most=127)
    b.add(op.Conv, **b.signs(16, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    x = b.requantize()
    b.add(op.Conv, **b.signs(16, 144), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.requantize()
    y = b.add(op.Conv, **b.signs(16, 144), kernel=(3, 3), padding=(1, 1, 1, 1))
    x = b.requantize(y, x)
    y = b.add(op.Conv, **b.signs(33, 16 * 9), kernel=(3, 3), padding=(0, 1, 0, 1), stride=(2, 2))
    b.add(op.Take, x, axis=1, indices=np.int32([1, 0, 1, 2, 7, 7, 5, 3]))
    b.add(op.Slice, stop=(16, 8, 9), step=(1, 2, 2))
    b.add(op.Slice, stop=(16, 4, 4))
    x = b.add(op.Pad, channels=(0, 17))
    x = b.requantize(y, x, most=15)
    b.add(op.Conv, **b.signs(33, 9), kernel=(3, 3), padding=(1, 1, 1, 1), groups=33)
    b.requantize(least=-8, most=7)
    b.add(op.MaxPool, kernel=(2, 2), padding=(1, 0, 0, 0))
    b.add(op.ConvTranspose, **b.signs(12, 33 * 4), kernel=(2, 2), stride=(2, 2))
    y = b.requantize(most=3)
    b.add(op.Conv, **b.signs(6, 4 * 2), kernel=(1, 2), groups=3, dilation=(1, 2), padding_value=1, padding=(0, 0, 1, 0))
    b.requantize(least=-1, most=1)
    b.add(op.AveragePool, kernel=(2, 2), stride=(2, 1), sums=1)
    x = b.requantize(most=255)
    b.add(op.RealConv, weight=b.real(5, 6), kernel=(1, 1))
    b.add(op.Quantize, least=-3, most=300)
    one = b.add(op.Flatten)
    two = b.add(op.Flatten, x)
    b.add(op.Concat, one, two)
    b.dense(70)
    b.requantize()
    b.dense(5)
    b.affine(5)
    return b.net()


def resnet(
    widths: tuple[int, ...] = (8, 16), *, blocks: int = 1, size: int = 12, seed: int = 0, coding: str, rounds: bool
) -> PackedNet:
    """A residual net as on CIFAR-10. rounds: to activations of 8 bits, a block and its shortcut once; else to ReLUs."""
    b = Builder((3, size, size), seed=seed, coding=coding)
    same = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}

    def activation(x: str, *shortcut: str) -> str:
        if rounds:
            b.requantize(x, *shortcut)
            multiplier = b.nodes[-1].multiplier.copy()  # type: ignore[attr-defined]
            multiplier[1:] = multiplier[1:, :1]  # all channels of the shortcut have one scale
            b.nodes[-1] = replace(b.nodes[-1], multiplier=multiplier)
            return b.last
        if shortcut:
            b.add(op.Add, x, *shortcut)
        return b.add(op.Relu)

    def conv(x: str, outputs: int, stride: int = 1) -> str:
        b.add(op.Conv, x, **b.signs(outputs, 9 * b.values[x].shape[0]), stride=(stride, stride), **same)
        return b.last if rounds else b.affine(outputs)

    x = activation(conv(b.requantize(least=-128, most=127) if rounds else "input", widths[0]))
    for width in np.repeat(widths, blocks).tolist():
        before = b.values[x].shape[0]
        y = conv(activation(conv(x, width, 1 if before == width else 2)), width)
        if before != width:
            b.add(op.Slice, x, stop=b.values[x].shape, step=(1, 2, 2))
            x = b.add(op.Pad, channels=((width - before) // 2, (width - before) // 2))
        x = activation(y, x)
    _, *kernel = b.values[x].shape
    b.add(op.AveragePool, kernel=tuple(kernel), sums=int(rounds))
    b.add(op.Flatten)
    b.dense(10)
    b.affine(10)
    return b.net()


integer_resnet = partial(resnet, coding="values", rounds=True)
real_resnet = partial(resnet, coding="integer", rounds=False)


def levels_net(seed: int = 0) -> PackedNet:
    """One-bit weights times signs that mean two real values: borders, strides, groups, a map where all are alike."""
    b = Builder((8, 6, 7), seed=seed)
    b.threshold(8, most=200)
    b.levels(-0.3, 5.2)
    first = b.add(op.Conv, **b.signs(16, 72), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(op.Sign, shift=np.full(16, 3e4, np.float32))  # all are -1, which has a finer grid than +1
    b.levels(0.7, 3e4)
    b.add(op.Conv, **b.signs(16, 72, scale=True), kernel=(3, 3), padding=(1, 1, 1, 1), groups=2)
    b.add(op.Add, b.last, first)
    b.add(op.Sign, shift=b.real(16))
    b.levels(-7.3, -2.1)
    b.add(op.Conv, **b.signs(8, 48), kernel=(1, 3), stride=(2, 1), padding=(0, 1, 2, 0), dilation=(1, 2))
    b.affine(8)
    b.add(op.Sign)
    b.levels(1e-3, -1.0)
    second = b.add(op.ConvTranspose, **b.signs(4, 8), kernel=(1, 1))
    b.add(op.Flatten, second)
    b.add(op.Sign)
    b.levels(0.0, 0.3)
    b.dense(5)
    b.affine(5)
    return b.net()


IMAGE_NETS = {"sign": sign_net, "real": real_net, "integer": integer_net, "levels": levels_net}


def features_net(seed: int = 0) -> PackedNet:
    """float32 features (F,), and two outputs: a sum that is gated, and one number per sample."""
    b = Builder((20,), seed=seed, coding="float32")
    b.dense(33)
    b.affine(33)
    b.add(op.Clamp, low=np.float32([0]), high=np.float32([6]))
    hidden = b.add(op.Dense, **b.signs(33, 33, scale=True))
    gate = b.add(op.Clamp, low=np.float32([-0.5]))
    gated = b.add(op.Multiply, hidden, gate)
    b.add(op.RealDense, weight=b.real(1, 33))
    number = b.add(op.Reshape, shape=())
    return b.net({"gated": gated, "number": number, "again": gated})


def tokens_net(seed: int = 0) -> PackedNet:
    """float32 tokens (T, F): a dense layer on the last axis, heads that change places, and an average over tokens."""
    b = Builder((6, 40), seed=seed, coding="float32")
    b.add(op.Sign)
    b.add(op.Permute, axes=(1, 0))
    b.add(op.Reshape, shape=(40, 1, 6))
    b.add(op.Conv, **b.signs(64, 40), kernel=(1, 1))
    b.affine(64)
    b.add(op.Reshape, shape=(4, 16, 6))
    b.add(op.Permute, axes=(2, 0, 1))
    b.add(op.Reshape, shape=(6, 2, 2, 16))
    b.add(op.Repeat, times=(1, 1, 3, 1))
    b.add(op.Permute, axes=(3, 1, 0, 2))
    b.add(op.Reshape, shape=(96, 12, 1))
    b.add(op.AdaptiveAveragePool, size=(1, 1))
    b.add(op.Flatten)
    b.add(op.Dense, **b.signs(5, 96))
    return b.net()


def signal_net(seed: int = 0) -> PackedNet:
    """uint8 signals (C, L) as they are: 1-D convolutions of images with one row, each channel by itself, upsampling."""
    b = Builder((3, 19), seed=seed, coding="values")
    b.add(op.Reshape, shape=(3, 1, 19))
    b.add(op.Conv, **b.signs(35, 15), kernel=(1, 5), padding=(0, 0, 2, 2))
    b.threshold(35, most=900)
    b.add(op.Conv, **b.signs(70, 3), kernel=(1, 3), padding=(0, 0, 1, 1), groups=35, padding_value=1)
    b.affine(70)
    b.add(op.RealConv, weight=b.real(70, 3), kernel=(1, 3), groups=70, stride=(1, 2))
    b.add(op.Repeat, times=(1, 2, 2))
    pooled = b.add(op.MaxPool, kernel=(2, 2), stride=(2, 2))
    b.add(op.Reshape, shape=(70, 9))
    b.add(op.Permute, axes=(1, 0))
    b.add(op.Flatten)
    b.add(op.Dense, **b.signs(4, 630))
    return b.net((b.last, pooled))


def activations_net(seed: int = 0) -> PackedNet:
    """float32 images: each activation, of integers and of real values, and a gate of squeeze-and-excite."""
    b = Builder((3, 4, 5), seed=seed, coding="float32")
    b.add(op.Sign)
    b.add(op.Conv, **b.signs(5, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    of_integers = b.add(op.activation.Silu)
    b.affine(5)
    features = b.add(op.activation.Hardswish)
    b.add(op.AdaptiveAveragePool, size=(1, 1))
    b.add(op.RealConv, weight=b.real(7, 5), kernel=(1, 1))
    b.add(op.activation.GeluTanh)
    b.add(op.RealConv, weight=b.real(5, 7), kernel=(1, 1))
    b.add(op.activation.Sigmoid)
    b.add(op.Repeat, times=(1, 4, 5))
    gated = b.add(op.Multiply, features, b.last)
    b.add(op.activation.Gelu)
    b.add(op.Flatten)
    b.add(op.Dense, **b.signs(4, 100, scale=True))
    b.add(op.activation.Mish)
    b.add(op.activation.Tanh)
    return b.net((of_integers, gated, b.last))


def again_net(seed: int = 0) -> PackedNet:
    """A convolution and a map that are called again: a file has their weights once. The last border is another."""
    b = Builder((3, 5, 6), seed=seed, coding="float32")
    layer, shift = b.signs(3, 27, scale=True), b.real(3)
    for padding in (1, 1, 0):
        b.add(op.Conv, **layer, kernel=(3, 3), padding=(padding,) * 4)
        b.add(op.Affine, shift=shift)
    assert b.net().repeats == {"n2": "n0", "n3": "n1", "n5": "n1"}
    return b.net()


NETS_OF_OTHER_INPUTS = {
    **{"features": features_net, "tokens": tokens_net, "signal": signal_net, "activations": activations_net},
    "again": again_net,
}
NETS = {**IMAGE_NETS, **NETS_OF_OTHER_INPUTS}


def with_names(net: PackedNet, new: Sequence[str]) -> PackedNet:
    """The same net with new names of its nodes."""
    names = {"input": "input"} | {node.output: name for node, name in zip(net.nodes, new, strict=True)}
    made = (replace(n, output=names[n.output], inputs=tuple(names[name] for name in n.inputs)) for n in net.nodes)
    output: Any = net.output
    if isinstance(output, dict):
        output = {key: names[name] for key, name in output.items()}
    else:
        output = names[output] if isinstance(output, str) else tuple(names[name] for name in output)
    return replace(net, nodes=tuple(made), output=output)


def inputs_of(net: PackedNet, count: int, seed: int = 0) -> np.ndarray:
    """A batch for a net: noise in the dtype of its input."""
    rng = np.random.default_rng(seed)
    size = (count, *net.input.shape)
    if net.input.dtype == "float32":
        return rng.standard_normal(size).astype(np.float32)
    return rng.integers(0, 256, size, dtype=np.uint8)


def make_packed_mlp(
    widths: tuple[int, ...] = (12, 70, 65, 10),
    *,
    form: str = "weight-only",
    shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    certificate: Certificate | None = None,
) -> PackedNet:
    """A packed MLP with random contents.

    `form`: "weight-only" (affine and ReLU between the layers), "sign" (thresholds), or "mixed" (standardized input,
    scales, centers, a sign of real values and a real last layer).
    """
    b = Builder(shape or (1, 1, widths[0]), seed=seed)
    b.add(op.Flatten, name="flat")
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        fc, last, signs = f"fc{layer}", layer == len(widths) - 2, b.signs(outputs, inputs)
        if form == "mixed" and last:
            b.add(op.RealDense, name=fc, weight=b.real(outputs, inputs))
            b.add(op.Affine, name=f"bias{layer}", shift=b.real(outputs))
        elif form == "mixed":
            signs |= {"scale": np.abs(b.real(outputs)) + 0.1, "centre": b.real(outputs, stddev=0.1)}
            b.add(op.Dense, name=fc, **signs)
            b.add(op.Sign, name=f"sign{layer}")
        elif form == "sign" and not last:
            b.add(op.Dense, name=fc, **signs)
            direction = b.rng.choice(np.array([-1, 1], np.int8), outputs)
            threshold = b.rng.integers(-50, 50, outputs).astype(np.int32)
            b.add(op.Threshold, name=f"threshold{layer}", threshold=threshold, direction=direction)
        else:
            b.add(op.Dense, name=fc, **signs)
            b.add(op.Affine, name=f"affine{layer}", scale=b.real(outputs, stddev=1 / inputs), shift=b.real(outputs))
            if not last:
                b.add(op.Relu, name=f"relu{layer}")
    net = replace(b.net(), classes=tuple(map(str, range(widths[-1]))), certificate=certificate, name=f"random {form}")
    if form == "mixed":
        channels = net.input.shape[0]
        mean, std = b.real(channels, stddev=20) + np.float32(128), np.full(channels, 64, np.float32)
        net = replace(net, inputs={"input": InputSpec(shape=net.input.shape, coding="standardise", mean=mean, std=std)})
    return net


def coded_input(shape: tuple[int, ...], seed: int) -> InputSpec:
    rng = np.random.default_rng(seed)
    mean, std = (rng.uniform(50, 150, shape[0]).astype(np.float32) for _ in range(2))
    return InputSpec(shape=shape, coding="standardise", mean=mean, std=std)


def four_inputs() -> PackedNet:
    """Two standardized images, pixels as integers, and a vector."""
    rng = np.random.default_rng(0)
    inputs = {
        "first": coded_input((3, 2, 2), 1),
        "bytes": InputSpec(shape=(7,)),
        "second": coded_input((2, 6, 1), 2),
        "vector": InputSpec(shape=(9,), dtype="float32", coding="values"),
    }

    def signs(inputs: int) -> dict[str, Any]:
        return {"signs": pack_signs(rng.choice(np.array([-1, 1], np.int8), (9, inputs))), "in_features": inputs}

    threshold = {"threshold": rng.integers(-50, 50, 9).astype(np.int32), "direction": np.ones(9, np.int8)}
    nodes = (
        op.Flatten(inputs=("first",), output="flat"),
        op.Dense(inputs=("flat",), output="a", **signs(12)),
        op.Flatten(inputs=("second",), output="flat2"),
        op.Dense(inputs=("flat2",), output="b", **signs(12)),
        op.Dense(inputs=("bytes",), output="c", **signs(7)),
        op.Threshold(inputs=("c",), output="d", **threshold),
        op.Add(inputs=("a", "b"), output="e"),
        op.Add(inputs=("e", "d"), output="f"),
        op.Relu(inputs=("vector",), output="g"),
        op.Add(inputs=("f", "g"), output="y"),
    )
    return PackedNet(inputs=inputs, nodes=nodes, output="y", name="four inputs")


def signs_conv(seed: int = 0) -> PackedNet:
    """Convolutions of ±1 before thresholds, with and without max pools, and a dense end, as in VGG-small."""
    b = Builder((3, 12, 12), seed=seed)
    b.add(op.Conv, **b.signs(8, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.threshold(8, most=300)
    b.add(op.Conv, **b.signs(16, 72), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(op.MaxPool, kernel=(2, 2), stride=(2, 2))
    b.threshold(16)
    b.add(op.Conv, **b.signs(16, 144), kernel=(3, 3), padding=(0, 1, 2, 1), padding_value=-1)
    b.threshold(16)
    b.add(op.Conv, **b.signs(12, 16), kernel=(1, 1), stride=(1, 2))
    b.threshold(12, most=5)
    b.add(op.Flatten)
    b.dense(30)
    b.threshold(30)
    b.dense(10)
    b.affine(10)
    return b.net()
