"""Packed net -> model: the start of a further training. The inverse of `pack`, as far as a packed net keeps the model.

The model is folded as by `pack`, which tells what each number of the packed net was made from. Signs become latents of
one magnitude. A BatchNorm gets the factor and shift that the packed net has; before a sign, where the packed net has
only a threshold, it gets that threshold and a factor of ±1. Its statistics are those of images of the new training, so
that it computes nearly the same in training, where BatchNorm takes the statistics of a batch. At the end the model is
folded again and compared with the packed net.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onebit.errors import CheckpointError, OnebitError, first_line
from onebit.fold import example_of, fold_with_folder
from onebit.fold.chain import Chain, FoldedOp, joined
from onebit.fold.folder import Folded, Folder
from onebit.layers import InputCoding, LatentWeight, RPReLU
from onebit.layers.coding import OLD_CODINGS
from onebit.packed import Affine, Node, PackedNet, Prelu, Quantize, Requantize, Sign, Threshold
from onebit.packed.bits import unpack_signs
from onebit.packed.difference import array_differences
from onebit.packed.node_text import to_lines
from onebit.packed.nodes import OneBitWeights, RealWeights
from onebit.packed.nodes.node import INT32
from onebit.quantizers import Quantizer

BATCH = 100
"""Images at once, for the statistics of BatchNorm."""
ROUNDING = 1e-4
"""Share of the largest number of an array by which float32 may change it on its way through a BatchNorm."""
Norm = nn.BatchNorm1d | nn.BatchNorm2d


class _Line(NamedTuple):
    """What a BatchNorm computes in eval mode: scale · x + shift, per channel in float64.

    free: only the sign of the result counts, so that any positive factor on both is the same net.
    """

    scale: np.ndarray
    shift: np.ndarray
    free: bool


@torch.no_grad()
def unfold_(model: nn.Module, net: PackedNet, images: Any, *, source: str, other_classes: bool = False) -> str:
    """Give a model the weights of a packed net, in place, so that both compute the same.

    Latents get the magnitude `Quantizer.start_size`: those far below it forget their signs in the first steps
    (docs/train.md has the measurement). Where the last layer has another number of outputs than that of the packed net,
    or they mean other classes, it stays as it is, and so does what follows.

    Args:
        model: as it was created for a training: its structure must be that of the packed net.
        images: (N, C, H, W) uint8 of the new training, for the statistics of BatchNorm.
        source: name of the packed net, for messages.
        other_classes: the outputs mean other classes than those of the packed net.

    Returns:
        What was made of it, in one line.
    """
    same = check_structure(model, net, tuple(images.shape[1:]), source=source)
    kept = min(same, _last_weights(net)) if other_classes else same
    unfolding = _Unfolding(model, net, net.nodes[:kept], source)
    try:
        unfolding.set_weights()
        unfolding.set_norms(images)
        again = fold_with_folder(model, example_of(net.input))[0].net
    # a layer that holds its numbers in another way, or numbers that are too large
    except (AttributeError, RuntimeError, ValueError, OnebitError) as error:
        raise CheckpointError(f"{source}: cannot become the start of this model: {first_line(error)}") from None
    for difference in array_differences(_first(net, kept), _first(again, kept)):
        node = next(node for node in net.nodes if node.output == difference.node)
        largest = float(np.abs(node.stored[difference.field]).max())
        exact = difference.field in ("signs", "threshold", "direction")
        if exact or difference.largest > ROUNDING * largest:
            raise CheckpointError(f"{source}: cannot become the start of this model, which changes {difference}")
    return unfolding.said("begins anew" if kept < same else "has another number of outputs and begins anew")


@torch.no_grad()
def check_structure(model: nn.Module, net: PackedNet, shape: tuple[int, ...], *, source: str) -> int:
    """How many nodes of a packed net the model has as well: all, or those before a last layer of other outputs.

    A model on the device "meta" is checked with zeros as its numbers.

    Args:
        shape: of an input of the model.
    """
    few = next((node.output for node in net.nodes if isinstance(node, (Quantize, Requantize))), None)
    if few is not None:
        raise CheckpointError(
            f"{source}: rounds activations to integers of few bits ({few!r}), which do not determine its BatchNorm: "
            "start from the net that it was made of"
        )
    if net.input.shape != shape:
        raise CheckpointError(f"{source}: belongs to another net: takes {net.input.shape}, the model takes {shape}")
    try:
        made = fold_with_folder(_with_numbers(model), example_of(net.input))[0].net
    except OnebitError as error:
        raise CheckpointError(f"{source}: the model is not one that was packed: {error}") from None
    if made.input.coding != net.input.coding:
        there, here = (OLD_CODINGS.get(spec.coding, spec.coding) for spec in (net.input, made.input))
        way = "" if there == "values" else f": train with --model.coding {there}"
        raise CheckpointError(
            f"{source}: belongs to another net: its input coding is {there!r}, the model has {here!r}{way}"
        )
    theirs, ours = to_lines(net.nodes), to_lines(made.nodes)
    same = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), len(ours))
    if same == len(theirs) == len(ours):
        return same
    if (
        len(theirs) == len(ours)
        and same == _last_weights(net)
        and _kinds(net.nodes[same:]) == _kinds(made.nodes[same:])
    ):
        return same
    there, here = (lines[same] if same < len(lines) else "nothing" for lines in (theirs, ours))
    raise CheckpointError(f"{source}: belongs to another net: has {there!r}, the model has {here!r}")


def _last_weights(net: PackedNet) -> int:
    """The place of the last node with weights."""
    return max(i for i, node in enumerate(net.nodes) if isinstance(node, (OneBitWeights, RealWeights)))


def _kinds(nodes: tuple[Node, ...]) -> list[tuple[Any, ...]]:
    """Nodes without the number of their outputs."""
    return [
        (type(node), node.output, node.inputs, *(array.shape[1:] for array in node.stored.values())) for node in nodes
    ]


def _first(net: PackedNet, count: int) -> PackedNet:
    """A stand-in of the first nodes for a comparison of arrays."""
    part = copy.copy(net)
    object.__setattr__(part, "nodes", net.nodes[:count])
    return part


def _with_numbers(model: nn.Module) -> nn.Module:
    """The model, or of one on the device "meta" a copy with zeros, and with ones as variances."""
    if not any(parameter.is_meta for parameter in model.parameters()):
        return model
    made = copy.deepcopy(model).to_empty(device="cpu")
    for name, tensor in (*made.named_parameters(), *made.named_buffers()):
        tensor.fill_(1 if name.endswith(("var", "std")) else 0)
    return made


class _Unfolding:
    """Writes the numbers of some nodes of a packed net into a model."""

    def __init__(self, model: nn.Module, net: PackedNet, nodes: tuple[Node, ...], source: str) -> None:
        self.model, self.net, self.nodes, self.source = model, net, nodes, source
        self.lines: dict[Norm, _Line] = {}
        self.magnitudes: list[float] = []
        self.centered = 0

    def said(self, last: str) -> str:
        """What was made of the packed net. last: of the last layer, if it is not the net's."""
        low, high = min(self.magnitudes, default=0.0), max(self.magnitudes, default=0.0)
        size = f"{low:.2g}" if high - low < 0.005 * high else f"{low:.2g} to {high:.2g}"
        free = sum(line.free for line in self.lines.values())
        parts = [f"signs become latents of ±{size}" if self.magnitudes else ""]
        if self.centered:
            parts.append(f"latents of {self.centered} layers take the two values of each channel")
        if free:
            parts.append(f"{free} BatchNorm before signs keep their thresholds and begin with factors of ±1")
        if len(self.nodes) < len(self.net.nodes):
            parts.append(f"{self.net.nodes[len(self.nodes)].output!r} {last}")
        return f"{self.source}: " + "; ".join(filter(None, parts))

    def set_weights(self) -> None:
        """Everything but BatchNorm: latents, real weights, slopes, the coding, and the levels and values of inputs."""
        folded, folder = self._folded()
        sites = {site.value: site for site in folded.signs}
        if self.net.input.mean is not None:
            coding = next(module for module in self.model.modules() if isinstance(module, InputCoding))
            for name in ("mean", "std"):
                _copy(getattr(coding, name), getattr(self.net.input, name))
        for node in self.nodes:
            if isinstance(node, (OneBitWeights, RealWeights)):
                self._set_layer(node)
            elif isinstance(node, Prelu):
                layer = self.model.get_submodule(node.output)
                if not isinstance(layer, nn.LeakyReLU):
                    slope: Any = layer.slope if isinstance(layer, RPReLU) else layer.weight
                    _copy(slope, node.slope[: slope.numel()])
            elif isinstance(node, Sign) and node.shift is not None:
                quantizer: Any = self.model.get_submodule(sites[node.output].module)
                level = getattr(quantizer, "shift", None)
                level = quantizer.centre if level is None else level
                _copy(level, node.shift[: level.numel()])
            elif isinstance(node, Affine):
                path, dot, values = folder.affine[node.output][-1].name.rpartition(".sign.values")
                if dot and not values:  # what an input quantizer makes of the two signs
                    quantizer = self.model.get_submodule(f"{path}.input_quantizer")
                    scale, shift = _or_default(node.scale, node.shift, 1)
                    _copy(quantizer.distance, scale[:1])
                    _copy(quantizer.centre, shift[:1])

    def _set_layer(self, node: Any) -> None:
        layer: Any = self.model.get_submodule(node.output)
        binary = isinstance(layer, LatentWeight)
        transposed = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)) and not binary
        weight = layer.weight.detach()
        if transposed:
            weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
        shape = (layer.outputs_first(weight) if binary else weight).shape
        stored = node.weight if isinstance(node, RealWeights) else unpack_signs(node.signs, node.in_features)
        rows = torch.from_numpy(np.array(stored, np.float32))
        if isinstance(node, OneBitWeights):
            rows = self._latents(layer, node, rows)
        found = rows.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
        if binary:
            found = layer.own_layout(found)
        elif transposed:
            found = found.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
        layer.weight.copy_(found)

    def _latents(self, layer: Any, node: OneBitWeights, signs: Tensor) -> Tensor:
        """Latents whose `decompose` gives the signs of a node, and its center and scale if it has a center."""
        quantizer: Quantizer = layer.weight_quantizer
        if node.centre is not None and node.scale is not None:
            # two values whose mean and deviation over a row are center and scale
            share = (signs > 0).double().mean(1, keepdim=True).clamp(1e-6, 1 - 1e-6)
            centre, scale = (torch.from_numpy(array.astype(np.float64))[:, None] for array in (node.centre, node.scale))
            upper, lower = ((1 - share) / share).sqrt(), -(share / (1 - share)).sqrt()
            self.centered += 1
            return (centre + scale * torch.where(signs > 0, upper, lower)).float()
        scale_parameter = getattr(quantizer, "scale", None)
        if isinstance(scale_parameter, nn.Parameter):
            scale_parameter.fill_(1)
        self.magnitudes.append(quantizer.start_size)
        return signs * quantizer.start_size

    def set_norms(self, images: Any) -> None:
        """BatchNorm, biases and shifts: of the affine maps and thresholds that they were folded into."""
        folded, folder = self._folded()
        chains = {site.value: site.chain for site in folded.signs}
        for node in self.nodes:
            if isinstance(node, Threshold):
                chain = chains[node.output]
                assert chain is not None
                self._set_threshold(chain, node)
            elif isinstance(node, Affine):
                self._set_affine(folder.affine[node.output], node)
        unit = {norm: (np.zeros(norm.num_features), np.ones(norm.num_features)) for norm in self.lines}
        for statistics in (unit, None):  # the nets are the same from the first on, which the statistics need
            for norm, (mean, variance) in (statistics or self._statistics(images)).items():
                _set_norm(norm, self.lines[norm], mean, variance)

    def _folded(self) -> tuple[Folded, Folder]:
        return fold_with_folder(self.model, example_of(self.net.input))

    def _norm(self, op: FoldedOp) -> Norm | None:
        """The BatchNorm that made an operation."""
        try:
            module = self.model.get_submodule(op.name)
        except AttributeError:
            return None
        return module if isinstance(module, Norm) else None

    def _last_norm(self, ops: tuple[FoldedOp, ...]) -> tuple[int, Norm] | None:
        found = [(i, norm) for i, op in enumerate(ops) if (norm := self._norm(op)) is not None]
        return found[-1] if found else None

    def _set_affine(self, ops: tuple[FoldedOp, ...], node: Affine) -> None:
        """Let the joined operations be the affine map of a node."""
        last = self._last_norm(ops)
        if last is None:
            self._set_shift(ops, node)
            return
        at, norm = last
        size = norm.num_features
        before, after = (_numbers(ops[:at], size), _numbers(ops[at + 1 :], size))
        whole = _or_default(node.scale, node.shift, size)
        scale = whole[0] / (after[0] * before[0])
        self.lines[norm] = _Line(scale, (whole[1] - after[1]) / after[0] - scale * before[1], False)

    def _set_shift(self, ops: tuple[FoldedOp, ...], node: Affine) -> None:
        """Set the only shift among joined operations without a BatchNorm: a bias, or one of an RPReLU.

        What a model has in another place is found by the comparison at the end.
        """
        path, _, part = ops[-1].name.rpartition(".")
        layer: Any = dict(self.model.named_modules()).get(path if part in ("in", "out") else ops[-1].name)
        if node.shift is None or layer is None:
            return
        if isinstance(layer, RPReLU):
            _copy(layer.shift_in if part == "in" else layer.shift_out, -node.shift if part == "in" else node.shift)
        elif getattr(layer, "bias", None) is not None:
            _copy(layer.bias, node.shift)

    def _set_threshold(self, chain: Chain, node: Threshold) -> None:
        """Let the last BatchNorm of a chain change its sign between the two integers where the threshold is."""
        last = self._last_norm(chain.ops)
        if last is None:
            return  # a threshold at another place is found by the comparison at the end
        at, norm = last
        if norm.num_features != chain.channels:
            raise ValueError(f"{node.output} has a level for each pixel, which do not determine that of a channel")
        integers, direction = chain.integers, node.direction.astype(np.float64)
        threshold = node.threshold.astype(np.float64)
        middle = threshold - direction * integers.step / 2
        middle = np.where(threshold == INT32.max, integers[-1] + integers.step / 2, middle)  # never +1
        middle = np.where(threshold == INT32.min, integers[0] - integers.step / 2, middle)  # always +1
        points = torch.from_numpy(np.stack([middle, middle + 1]).astype(np.float32))
        for op in chain.ops[:at]:
            points = op.apply(points)
        place, above = points.double().numpy()
        given = chain.quantizer.binary_input()
        level = 0.0 if given is None or given.shift is None else given.shift.double().numpy()
        slope = direction * np.where(above >= place, 1.0, -1.0)
        self.lines[norm] = _Line(slope, level - slope * place, True)

    def _statistics(self, images: Any) -> dict[Norm, tuple[np.ndarray, np.ndarray]]:
        """Mean and variance of what each BatchNorm takes, per channel, in eval mode."""
        sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in self.lines}

        def count(norm: Any, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double().cpu()
            x = x.movedim(1, 0).flatten(1)
            sums[norm] += torch.stack([torch.full((len(x),), float(x.shape[1])), x.sum(1), x.square().sum(1)])

        hooks = [norm.register_forward_pre_hook(count) for norm in self.lines]
        device = next(self.model.parameters()).device
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            for start in range(0, len(images), BATCH):
                self.model(torch.as_tensor(images[start : start + BATCH]).to(device))
        finally:
            for hook in hooks:
                hook.remove()
            for module, training in modes.items():
                module.training = training
        means = {norm: total[1] / total[0] for norm, total in sums.items()}
        return {
            norm: (means[norm].numpy(), (total[2] / total[0] - means[norm].square()).clamp(min=0).numpy())
            for norm, total in sums.items()
        }


def _set_norm(norm: Norm, line: _Line, mean: np.ndarray, variance: np.ndarray) -> None:
    """Give a BatchNorm these statistics, and the factor and shift with which it computes a line."""
    deviation = np.sqrt(variance + norm.eps)
    scale, shift = line.scale, line.shift
    if line.free:
        scale, shift = scale / deviation, shift / deviation
    if norm.weight is None:  # no factors to learn: the statistics are all that it has
        if (scale <= 0).any():
            raise ValueError("a BatchNorm without factors cannot turn a value around")
        mean, variance = -shift / scale, scale**-2.0 - norm.eps
    else:
        _copy(norm.weight, scale * deviation)
        _copy(norm.bias, shift + scale * mean)
    _copy(norm.running_mean, mean)
    _copy(norm.running_var, variance)


def _numbers(ops: tuple[FoldedOp, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    return _or_default(*joined((op.scale, op.shift) for op in ops), size)


def _or_default(scale: Any, shift: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift in float64, 1 and 0 where they are None."""
    return (
        np.ones(size) if scale is None else np.asarray(scale, np.float64),
        np.zeros(size) if shift is None else np.asarray(shift, np.float64),
    )


def _copy(parameter: Any, values: np.ndarray) -> None:
    with np.errstate(over="ignore"):  # a number that is not finite is refused as the model is folded again
        parameter.copy_(torch.from_numpy(np.array(values, np.float32)).reshape(parameter.shape))
