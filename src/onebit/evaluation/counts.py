"""How large a net is: binary weights, real parameters, bytes and multiply-accumulates (MACs)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from onebit.common.arguments import described
from onebit.errors import UsageError, first_line
from onebit.evaluation.model_inputs import kept_training, model_device
from onebit.layers import BinaryLayer, BinaryParametrization, InputCoding, binary_parametrizations, check_model


def layer_size(layer: nn.Module) -> tuple[int, int]:
    """(binary weights, real numbers) that a packed net keeps of one layer, without its children.

    BatchNorm keeps two numbers per channel, scale and shift, learned or not; its running statistics fold into them.
    """
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return 0, 2 * layer.num_features
    if isinstance(layer, ParametrizationList) and isinstance(layer[0], BinaryParametrization):
        return 0, 0  # counts with the layer that reads the weight
    parameters = sum(p.numel() for p in layer.parameters(recurse=False))
    if isinstance(layer, BinaryLayer) and layer.weight_quantizer is not None:
        return layer.weight.numel(), parameters - layer.weight.numel()
    return sum(part.weight.numel() for part in binary_parametrizations(layer).values()), parameters


def layer_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """`layer_size` of every layer of a model, without a forward pass."""
    return [layer_size(layer) for layer in model.modules()]


def model_size(model: nn.Module) -> tuple[int, int]:
    """(binary weights, real numbers) that a packed net keeps of a model; see `layer_size`."""
    binary, real = zip(*layer_sizes(model), strict=True)
    return sum(binary), sum(real)


def state_sizes(state: Mapping[str, Tensor], weights: Collection[str]) -> list[tuple[int, int]]:
    """`layer_size` of every layer of a state_dict.

    Args:
        weights: names of the tensors that count as binary.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer, _, key = name.rpartition(".")
        layers.setdefault(layer, {})[key] = tensor
    sizes = []
    for layer, tensors in layers.items():
        if "running_mean" in tensors:  # a BatchNorm
            sizes.append((0, 2 * tensors["running_mean"].numel()))
        elif set(tensors) != {"mean", "std"}:  # an `InputCoding` learns nothing
            binary = [f"{layer}.{key}".removeprefix(".") in weights for key in tensors]
            numbers = [tensor.numel() if tensor.is_floating_point() else 0 for tensor in tensors.values()]
            signs = sum(count for count, is_sign in zip(numbers, binary, strict=True) if is_sign)
            sizes.append((signs, sum(numbers) - signs))
    return sizes


def packed_bytes(sizes: Iterable[tuple[int, int]]) -> int:
    """Bytes of layers given as (binary weights, real numbers): one bit and four bytes each, whole bytes per layer."""
    return sum(-(-binary // 8) + 4 * real for binary, real in sizes)


@dataclass(frozen=True)
class LayerSummary:
    """One layer with parameters: sizes by `layer_size`, MACs for one image.

    Binary MACs are those with a binary weight, whatever the input. `output_shape` is (C, H, W) or (C,).
    """

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
        return packed_bytes([(self.binary_weights, self.real_parameters)])

    @property
    def bytes_float32(self) -> int:
        """Bytes at four per number."""
        return 4 * (self.binary_weights + self.real_parameters)


COLUMNS = {
    "binary": "binary_weights",
    "real": "real_parameters",
    "bytes packed": "bytes_packed",
    "bytes float32": "bytes_float32",
    "binary MACs": "binary_macs",
    "real MACs": "real_macs",
}
"""Heading in the printed summary -> field or property."""
LONGEST_NAME = 32


@dataclass(frozen=True)
class Summary:
    """Weights, bytes and MACs per layer; `print` it for a table."""

    layers: tuple[LayerSummary, ...]

    def total(self, field: str) -> int:
        """The sum of one field or property over all layers."""
        return sum(getattr(layer, field) for layer in self.layers)

    def __str__(self) -> str:
        rows = [["layer", "kind", "output", *COLUMNS]]
        for layer in self.layers:
            counts = [f"{getattr(layer, field):,}" for field in COLUMNS.values()]
            rows.append([_shortened(layer.name), layer.kind, "×".join(map(str, layer.output_shape)), *counts])
        rows.append(["total", "", "", *(f"{self.total(field):,}" for field in COLUMNS.values())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [f"<{width}" for width in widths[:3]] + [f">{width}" for width in widths[3:]]
        head, *lines, total = ("  ".join(map(format, row, aligned)) for row in rows)
        rule = "-" * len(head)
        return "\n".join([head, rule, *lines, rule, total])


def _shortened(name: str) -> str:
    """A name that fits a column; the end is kept because it is the most specific."""
    return name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :]


@torch.no_grad()
def summary(model: nn.Module, *, input_shape: tuple[int, ...] | None = None) -> Summary:
    """Sizes and MACs of every layer that has parameters, from one forward pass of two blank images.

    A layer that is called several times counts its MACs each time and its weights once; a layer that is never called
    has no output shape. Multiplications with zero padding count.

    Args:
        input_shape: (C, H, W); by default the model's own `input_shape`. The images are uint8 for a model with an
            `InputCoding`, else float32.

    Raises:
        UsageError: unknown shape, or the model does not take such images. WrongTypeError: not a module.
    """
    check_model(model)
    shape = input_shape or getattr(model, "input_shape", None)
    if not isinstance(shape, (tuple, list)):
        got = "the model has none of its own" if shape is None else f"got {described(shape)}"
        raise UsageError(f"summary needs input_shape=(C, H, W), {got}")
    names = {layer: name for name, layer in model.named_modules() if sum(layer_size(layer))}
    outputs: dict[nn.Module, tuple[int, ...]] = {}
    macs = dict.fromkeys(names, 0)

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        output = output[0] if isinstance(output, tuple) else output
        outputs[layer] = tuple(output.shape[1:])
        macs[layer] += _macs(layer, inputs, output)

    hooks = [layer.register_forward_hook(note) for layer in names]
    coded = any(isinstance(layer, InputCoding) for layer in model.modules())
    try:
        images = torch.zeros(2, *shape, dtype=torch.uint8 if coded else torch.float32, device=model_device(model))
        with kept_training(model):
            model.eval()(images)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"the model does not take images {tuple(shape)}: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for layer, name in names.items():
        binary, real = layer_size(layer)
        layer_macs = (macs[layer], 0) if binary else (0, macs[layer])
        rows.append(LayerSummary(name, type(layer).__name__, outputs.get(layer, ()), binary, real, *layer_macs))
    return Summary(tuple(rows))


def _macs(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Multiply-accumulates of one call, for one image."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return 0
    # each output value costs the weights of its output channel; transposed, each input value those of its input channel
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    return (inputs[0] if transposed else output)[0].numel() * weight[0].numel()
