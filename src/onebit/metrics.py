"""Training health (flips, saturation) and the summary of a net: bits, bytes, MACs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers import BinaryLayer, binary_layers


def binary_signs(model: nn.Module) -> dict[str, Tensor]:
    """Name -> boolean tensor (True = +1) of what ships of each binary layer."""
    return {name: layer.binary_weight().signs > 0 for name, layer in binary_layers(model)}


def flip_ratio(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Share of binary weights whose sign differs between two readings of `binary_signs`; 0 for a net without any.

    Counts are summed over layers, then divided.
    """
    flips = sum(int(torch.count_nonzero(before[name] != after[name])) for name in after)
    count = sum(signs.numel() for signs in after.values())
    return flips / count if count else 0.0


def saturation(model: nn.Module) -> float:
    """Share of latent weights at or beyond their bound, over the layers whose quantizer has one; 0 without any."""
    saturated = count = 0
    for _, layer in binary_layers(model):
        bound = layer.weight_quantizer.latent_bound if layer.weight_quantizer is not None else None
        if bound is not None:
            saturated += int(torch.count_nonzero(layer.weight.detach().abs() >= bound))
            count += layer.weight.numel()
    return saturated / count if count else 0.0


@dataclass(frozen=True)
class LayerSummary:
    """One layer with weights: `bits` per weight when shipped; MACs for one image."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    binary_weights: int
    real_parameters: int
    binary_macs: int
    real_macs: int

    @property
    def bytes_packed(self) -> int:
        """Bytes at one bit per binary weight and four per real parameter."""
        return -(-self.binary_weights // 8) + 4 * self.real_parameters

    @property
    def bytes_float32(self) -> int:
        return 4 * (self.binary_weights + self.real_parameters)


@dataclass(frozen=True)
class Summary:
    """Bits, bytes and multiply-accumulates (MACs) per layer; `print` it for a table."""

    layers: tuple[LayerSummary, ...]

    def total(self, field: str) -> int:
        """The sum of one field or property over all layers."""
        return sum(getattr(layer, field) for layer in self.layers)

    def __str__(self) -> str:
        head = [
            "layer",
            "kind",
            "output",
            "binary weights",
            "real params",
            "bytes packed",
            "bytes float32",
            "binary MACs",
            "real MACs",
        ]
        fields = ("binary_weights", "real_parameters", "bytes_packed", "bytes_float32", "binary_macs", "real_macs")
        rows = [
            [
                layer.name,
                layer.kind,
                "×".join(map(str, layer.output_shape)),
                *(f"{getattr(layer, f):,}" for f in fields),
            ]
            for layer in self.layers
        ]
        rows.append(["total", "", "", *(f"{self.total(f):,}" for f in fields)])
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in [head, *rows]
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


@torch.no_grad()
def summary(model: nn.Module, *, input_shape: tuple[int, ...] | None = None) -> Summary:
    """Weights, bytes and MACs of every layer that has parameters, from one forward pass of two blank images.

    Binary MACs are those whose weight is one bit, whatever the input; BatchNorm counts its four vectors as stored.

    Args:
        input_shape: (C, H, W) of uint8 images; the model's own `input_shape` by default.

    Raises:
        UsageError: neither is known.
    """
    shape = input_shape or getattr(model, "input_shape", None)
    if shape is None:
        raise UsageError("summary of a foreign model needs input_shape=(C, H, W)")
    outputs: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: outputs.__setitem__(name, tuple(out.shape[1:])))
        for name, module in model.named_modules()
        if not any(True for _ in module.children()) or isinstance(module, BinaryLayer)
    ]
    was_training = model.training
    try:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        model.eval()(torch.zeros(2, *shape, dtype=torch.uint8, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    binary = {name for name, _ in binary_layers(model)}
    rows = []
    for name, output in outputs.items():
        module = model.get_submodule(name)
        state = [
            *module.parameters(recurse=False),
            *(b for b in module.buffers(recurse=False) if b.is_floating_point()),
        ]
        if not state:
            continue
        weight = getattr(module, "weight", None)
        weights = weight.numel() if isinstance(weight, Tensor) and weight.dim() > 1 else 0
        # a number of the output costs the weights of one output channel
        macs = math.prod(output) * weights // len(weight) if weights else 0  # type: ignore[arg-type]
        total = sum(tensor.numel() for tensor in state)
        is_binary = name in binary
        rows.append(
            LayerSummary(
                name=name,
                kind=type(module).__name__,
                output_shape=output,
                binary_weights=weights if is_binary else 0,
                real_parameters=total - weights if is_binary else total,
                binary_macs=macs if is_binary else 0,
                real_macs=0 if is_binary else macs,
            )
        )
    return Summary(tuple(rows))
