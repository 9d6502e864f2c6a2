"""Packed net -> model, to train it further: the inverse of `pack`, as far as a packed net determines the model.

A BatchNorm gets the factor and shift of the packed net; before a sign, where the packed net has a threshold, it gets
that threshold and a factor of ±1. Its statistics are those of training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onebit.errors import CheckpointError
from onebit.fold import example_of, fold_once
from onebit.fold.chain import Chain, joined
from onebit.layers import BinaryConvTranspose2d, InputCoding, LatentWeight, RPReLU
from onebit.layers.base import kept_training, model_device
from onebit.packed import PackedNet
from onebit.packed.node_text import to_lines
from onebit.packed.nodes import OneBitWeights
from onebit.packed.nodes.node import INT32


class Line(NamedTuple):
    """scale · (x - point) + level, per channel in float64: what a BatchNorm computes in eval mode.

    free: only the side of `level` counts, so that the scale may have any positive factor.
    """

    scale: np.ndarray
    point: Any
    level: Any
    free: bool


@torch.no_grad()
def unfold_(model: nn.Module, net: PackedNet, images: Any, *, source: str, other_classes: bool = False) -> None:
    """Give a model the weights of a packed net, in place, so that both compute the same.

    Latents get the magnitude `Quantizer.start_size`: much smaller ones would lose their signs in the first steps
    (of an MLP on 300 digits, 87 % from ±0.05, 2.5 % from ±0.5). The last layer and what follows stay unchanged if the
    number or the meaning of the outputs differs.

    Args:
        model: a new model with the structure of the packed net.
        images: training images (N, C, H, W) uint8 for the statistics of BatchNorm.
        source: name of the packed net, for messages.
        other_classes: the outputs mean other classes than those of the packed net.
    """
    if any(node.span for node in net.nodes):
        raise CheckpointError(f"{source}: integer activations do not determine BatchNorm; use a net with signs")
    folded = fold_once(model, example_of(net))
    theirs, ours = ([f"input {n.input.coding} {n.input.shape}", *to_lines(n.nodes)] for n in (net, folded.net))
    last = max(i for i, node in enumerate(net.nodes) if node.weights)
    same = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), len(theirs))
    if len(theirs) != len(ours) or same not in (last + 1, len(theirs)):
        there, here = theirs[same : same + 1], ours[same : same + 1]
        raise CheckpointError(f"{source} belongs to another net: got {there}, the model has {here}")
    nodes = net.nodes[:last] if other_classes or same == last + 1 else net.nodes
    if net.input.mean is not None:
        coding = next(module for module in model.modules() if isinstance(module, InputCoding))
        _copy(coding.mean, net.input.mean)
        _copy(coding.std, net.input.std)
    quantizers = {site.value: site.module for site in folded.sites}
    modules: dict[str, Any] = dict(model.named_modules())
    for node in nodes:
        layer: Any = modules.get(node.output)
        if node.weights:
            _set_layer(layer, node)
        elif (slope := node.stored.get("slope")) is not None and not isinstance(layer, nn.LeakyReLU):
            _copy(layer.slope if isinstance(layer, RPReLU) else layer.weight, slope)
        elif node.rounds and (shift := node.stored.get("shift")) is not None:
            quantizer = modules[quantizers[node.output]]
            _copy(quantizer.centre if getattr(quantizer, "shift", None) is None else quantizer.shift, shift)
        elif node.affine:
            path, dot, values = folded.affine[node.output][-1].name.rpartition(".sign.values")
            if dot and not values:  # the two values of an input quantizer
                quantizer = modules[f"{path}.input_quantizer"]
                scale, shift = _joined(node)
                _copy(quantizer.distance, scale)
                _copy(quantizer.centre, shift)
    with ExitStack() as stack:
        for norm, line in _norm_lines(model, net, nodes).items():
            stack.callback(norm.register_forward_pre_hook(partial(_set_norm, line)).remove)
        stack.enter_context(kept_training(model))
        model.eval()(torch.as_tensor(images).to(model_device(model)))


def _set_layer(layer: Any, node: Any) -> None:
    """Give a layer the weights of a node, which has a row per output, input channels last."""
    indices = torch.arange(layer.weight.numel()).view(layer.weight.shape)
    if isinstance(layer, LatentWeight):
        indices = layer.outputs_first(indices)
    elif isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        indices = BinaryConvTranspose2d.outputs_first(layer, indices)  # type: ignore[arg-type]
    rows = torch.from_numpy(np.array(node.rows, np.float32))
    if node.binary_weights:
        rows = _latents(layer.weight_quantizer, node, rows)
    weight = torch.empty(indices.numel())
    weight[indices.movedim(1, -1).flatten()] = rows.flatten()
    layer.weight.copy_(weight.view(layer.weight.shape))


def _latents(quantizer: Any, node: OneBitWeights, signs: Tensor) -> Tensor:
    """Latents whose `decompose` gives the signs of a node, and its scale and center if it has both."""
    if node.centre is not None and node.scale is not None:
        # two values whose mean and deviation over a row are center and scale
        share = (signs > 0).double().mean(1, keepdim=True).clamp(1e-6, 1 - 1e-6)
        centre, scale = (torch.from_numpy(array.astype(np.float64))[:, None] for array in (node.centre, node.scale))
        upper, lower = ((1 - share) / share).sqrt(), -(share / (1 - share)).sqrt()
        return (centre + scale * torch.where(signs > 0, upper, lower)).float()
    if isinstance(scale_parameter := getattr(quantizer, "scale", None), nn.Parameter):
        scale_parameter.fill_(1)
    return signs * quantizer.start_size


def _norm_lines(model: nn.Module, net: PackedNet, nodes: Sequence[Any]) -> dict[nn.Module, Line]:
    """BatchNorm -> the line of the affine map or threshold that it was folded into; also sets other shifts.

    Folds the model again, with its new weights.
    """
    folded = fold_once(model, example_of(net))
    chains = {site.value: site.chain for site in folded.sites}
    lines: dict[nn.Module, Line] = {}
    modules: dict[str, Any] = dict(model.named_modules())
    for node in nodes:
        chain = chains.get(node.output)
        ops = folded.affine.get(node.output, () if chain is None else chain.ops)
        norms = [i for i, op in enumerate(ops) if isinstance(modules.get(op.name), (nn.BatchNorm1d, nn.BatchNorm2d))]
        if norms and chain is not None:
            lines[modules[ops[norms[-1]].name]] = _threshold_line(chain, norms[-1], node)
        elif norms:  # the joined operations are the affine map of the node
            (before, point), (after, plus) = _joined(*ops[: norms[-1]]), _joined(*ops[norms[-1] + 1 :])
            scale, shift = _joined(node)
            lines[modules[ops[norms[-1]].name]] = Line(scale / (after * before), point, (shift - plus) / after, False)
        elif node.affine and node.shift is not None:
            path, _, part = ops[-1].name.rpartition(".")
            layer: Any = modules.get(path if part in ("in", "out") else ops[-1].name)
            if isinstance(layer, RPReLU):
                _copy(layer.shift_in if part == "in" else layer.shift_out, -node.shift if part == "in" else node.shift)
            elif getattr(layer, "bias", None) is not None:
                _copy(layer.bias, node.shift)
    return lines


def _threshold_line(chain: Chain, at: int, node: Any) -> Line:
    """The line of the BatchNorm at index `at`, which changes the sign between the same two integers."""
    integers, direction, threshold = chain.integers, node.direction.astype(np.float64), node.threshold
    middle = threshold - direction * integers.step / 2
    middle = np.where(threshold == INT32.max, integers[-1] + integers.step / 2, middle)  # never +1
    middle = np.where(threshold == INT32.min, integers[0] - integers.step / 2, middle)  # always +1
    points = torch.from_numpy(np.stack([middle, middle + 1]).astype(np.float32))
    for op in chain.ops[:at]:
        points = op.apply(points)
    point, above = points.double().numpy()
    given = chain.quantizer.binary_input()
    level = 0.0 if given is None or given.shift is None else given.shift.double().numpy()
    return Line(direction * np.where(above >= point, 1.0, -1.0), point, level, True)


def _set_norm(line: Line, norm: Any, inputs: tuple[Tensor, ...]) -> None:
    """Give a BatchNorm the statistics of its inputs, and the factor and shift of a line."""
    x = inputs[0].double().cpu().movedim(1, 0).flatten(1)
    mean, variance = x.mean(1).numpy(), x.var(1, correction=0).numpy()
    deviation = np.sqrt(variance + norm.eps)
    scale = line.scale / deviation if line.free else line.scale
    shift = line.level - scale * line.point
    if norm.weight is None:  # without factors, the statistics determine the line
        if (scale <= 0).any():
            raise CheckpointError("a BatchNorm without factors cannot have a negative scale")
        mean, variance = -shift / scale, scale**-2.0 - norm.eps
    else:
        _copy(norm.weight, scale * deviation)
        _copy(norm.bias, shift + scale * mean)
    _copy(norm.running_mean, mean)
    _copy(norm.running_var, variance)


def _joined(*maps: Any) -> tuple[Any, Any]:
    """Scale and shift of consecutive affine maps, in float64; 1 and 0 for none."""
    return joined([(np.ones(1), np.zeros(1)), *((one.scale, one.shift) for one in maps)])


def _copy(parameter: Any, values: Any) -> None:
    """Copy a number per channel, or the first one to a parameter that all channels share."""
    parameter.copy_(torch.from_numpy(np.array(values, np.float32)[: parameter.numel()]).reshape(parameter.shape))
