"""How large a net is: binary weights, real parameters, bytes and multiply-accumulates (MACs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from onebit.common.text import NetSize, table
from onebit.common.torch_private import BATCH_NORM, CONV_TRANSPOSE
from onebit.common.weight_names import WEIGHT_NAME
from onebit.layers import BinaryParametrization, InputCoding, latent_keys
from onebit.layers.base import kept_training, model_device, unwrapped
from onebit.layers.description import latents_of, packed_sizes
from onebit.layers.parametrized import kind_name

Size = tuple[int, int, int]
"""(binary weights, real numbers, bytes) of a packed net."""


def layer_size(layer: nn.Module, counted: set[int] | None = None) -> tuple[int, int]:
    """(binary weights, real numbers) of one layer, without its children, in a packed net.

    BatchNorm keeps two numbers per channel, scale and shift, into which its running statistics fold.

    Args:
        counted: ids of the parameters of earlier layers, such as an embedding that is the head, too; is added to.
    """
    counted = set() if counted is None else counted
    if isinstance(layer, BATCH_NORM):
        return 0, 2 * layer.num_features
    if isinstance(layer, ParametrizationList) and isinstance(layer[0], BinaryParametrization):
        return 0, 0  # part of the layer that reads the weight
    if any(packed := packed_sizes(layer)):
        bits = id(getattr(layer, "signs", layer))
        again = bits in counted
        counted.add(bits)
        return (0, 0) if again else packed
    latents = {id(latent.weight): latent.weight.numel() for latent in latents_of(layer)}
    real = {id(p): p.numel() for p in layer.parameters(recurse=False) if id(p) not in latents}
    sizes = [sum(count for key, count in one.items() if key not in counted) for one in (latents, real)]
    counted.update(latents, real)
    return sizes[0], sizes[1]


def model_size(model: nn.Module) -> Size:
    """The size of all layers of a model, without a forward pass."""
    counted: set[int] = set()
    return _summed(layer_size(layer, counted) for layer in model.modules())


def state_size(state: Mapping[str, Tensor], weights: Collection[str]) -> Size:
    """`model_size` from a state_dict.

    Args:
        weights: names of the tensors that count as binary.
    """
    layers: dict[str, dict[str, str]] = {}
    for name in state:
        layer, parametrized, key = f".{name}".rpartition(".parametrizations.")
        if not parametrized:
            layer, _, key = f".{name}".rpartition(".")
        layers.setdefault(layer, {})[key] = name
    sizes = []
    for names in layers.values():
        if "running_mean" in names:  # a BatchNorm
            sizes.append((0, 2 * state[names["running_mean"]].numel()))
        elif set(names) != {"mean", "std"}:  # an `InputCoding` learns nothing
            kept = [name for name in names.values() if state[name].is_floating_point() or name in weights]
            signs = sum(state[name].numel() for name in kept if name in weights)
            sizes.append((signs, sum(state[name].numel() for name in kept) - signs))
    return _summed(sizes)


def _summed(sizes: Iterable[tuple[int, int]]) -> Size:
    """The total size of layers, with whole bytes per layer."""
    binary, real = zip(*sizes, strict=True)
    return sum(binary), sum(real), sum(-(-count // 8) for count in binary) + 4 * sum(real)


def net_size(model: nn.Module) -> NetSize:
    """How much of a model is binary, and its bytes when packed.

    Embeddings are weights; scales, biases and normalization are not.
    """
    binary, _, size = model_size(model)
    latents, weights = latent_keys(model), binary
    for name, parameter in model.named_parameters():
        is_weight = parameter.dim() > 1 and WEIGHT_NAME.search(name) is not None
        # a scale per channel may have axes of length 1
        if name not in latents and (is_weight or sum(side > 1 for side in parameter.shape) > 1):
            weights += parameter.numel()
    return NetSize(binary, weights, size)


@dataclass(frozen=True)
class LayerSummary:
    """One layer with parameters: sizes by `layer_size`, MACs for one sample.

    Binary MACs are those with a binary weight, whatever the input. `output_shape` is that of one sample: (C, H, W),
    (T, F), (C,), …
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    binary_weights: int
    real_parameters: int
    binary_macs: int
    real_macs: int

    @property
    def macs(self) -> int:
        """All multiply-accumulates."""
        return self.binary_macs + self.real_macs

    @property
    def bytes_packed(self) -> int:
        """Bytes at one bit per binary weight and four per real parameter."""
        return _summed([(self.binary_weights, self.real_parameters)])[2]

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
            rows.append([layer.name, layer.kind, "×".join(map(str, layer.output_shape)), *counts])
        rows.append(["total", "", "", *(f"{self.total(field):,}" for field in COLUMNS.values())])
        return table(rows, right=range(3, len(rows[0])))


@torch.no_grad()
def summary(model: nn.Module, example: Tensor | None = None, *, input_shape: tuple[int, ...] | None = None) -> Summary:
    """Sizes and MACs of every layer that has parameters, from one forward pass of `example` or of two blank images.

    MACs count for each call of a layer, its weights once; a layer that is never called has no output shape. Zeros of
    padding count. A recurrent layer counts every step of the sequence; attention counts its projections, and the
    products of queries, keys and values as real MACs.

    Args:
        example: a batch (N, …) of inputs, such as token numbers (N, T); MACs are those of one sample.
        input_shape: of one sample, without an example; by default the model's `input_shape`. The blank images are uint8
            for a model with an `InputCoding`, else float32.

    Raises:
        WrongTypeError: not a module.
    """
    net: Any = unwrapped(model)  # a forward pass of one process alone would wait for the others
    if example is None:
        coded = any(isinstance(layer, InputCoding) for layer in net.modules())
        example = torch.zeros(2, *(input_shape or net.input_shape), dtype=torch.uint8 if coded else torch.float32)
    inputs = torch.as_tensor(example).to(model_device(net), copy=True)  # forward may change its inputs
    names = {layer: name for name, layer in net.named_modules() if sum(layer_size(layer)) or _attends(layer)}
    outputs: dict[nn.Module, tuple[int, ...]] = {}
    macs: Counter[tuple[nn.Module, bool]] = Counter()

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        outputs[layer] = _sample_shape(layer, output)
        for part, count, binary in _macs(layer, args, kwargs, output):
            macs[part, binary] += count

    with kept_training(net), ExitStack() as hooks:
        for layer in names:
            hooks.enter_context(layer.register_forward_hook(note, with_kwargs=True))
        net.eval()(inputs)
    rows, counted = [], set[int]()
    for layer, name in names.items():
        of_sample = (macs[layer, binary] // len(inputs) for binary in (True, False))
        sizes = layer_size(layer, counted)
        rows.append(LayerSummary(name, kind_name(layer), outputs.get(layer, ()), *sizes, *of_sample))
    return Summary(tuple(rows))


def _sample_shape(layer: nn.Module, output: Any) -> tuple[int, ...]:
    """The shape of the first output of a layer for one sample."""
    output = output[0] if isinstance(output, tuple) else output
    if not isinstance(output, Tensor):
        return ()
    sequence = isinstance(layer, (nn.RNNBase, nn.MultiheadAttention))
    if sequence and output.dim() == 2:  # no axis N, or that of packed sequences
        return tuple(output.shape)
    sample = 1 if sequence and not layer.batch_first else 0
    return tuple(size for axis, size in enumerate(output.shape) if axis != sample)


def _macs(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Iterator[tuple[nn.Module, int, bool]]:
    """(layer, multiply-accumulates, whether with binary weights) of one call, for the whole batch."""
    x: Any = args[0] if args else kwargs.get("input", kwargs.get("x"))  # of layers of torch, of packed ones
    if _attends(layer):
        yield from _attention_macs(layer, args, kwargs)
    elif any(packed_sizes(layer)):
        yield layer, layer.macs(x, output), True
    elif isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        steps = getattr(x, "data", x).numel() // layer.input_size  # `data` holds the values of packed sequences
        signs = layer_size(layer)[0]
        real = [p.numel() for name, p in layer.named_parameters(recurse=False) if name.startswith("weight_")]
        yield layer, steps * signs, True
        yield layer, steps * sum(real), False
    elif not isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):  # a table to look up
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and isinstance(output, Tensor):
            # each output costs the weights of its output channel; transposed, each input those of its input channel
            positions = x if isinstance(layer, CONV_TRANSPOSE) else output
            yield layer, positions.numel() * weight[0].numel(), bool(layer_size(layer)[0])


def _attends(layer: Any) -> bool:
    """Whether a layer is torch's attention, or a packed one in its place."""
    return isinstance(layer, nn.MultiheadAttention) or getattr(layer, "replaces", None) is nn.MultiheadAttention


def _attention_macs(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[nn.Module, int, bool]]:
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    width, query, key = layer.embed_dim, given["query"], given["key"]
    queries, keys, values = (given[name].shape[:-1].numel() for name in ("query", "key", "value"))
    if isinstance(layer, nn.MultiheadAttention):  # the projections of a packed one are layers of their own
        projected = width * (queries * width + keys * layer.kdim + values * layer.vdim)
        yield layer, projected, bool(layer_size(layer)[0])
        yield layer.out_proj, queries * width * width, bool(layer_size(layer.out_proj)[0])
    # every query with every key of its sequence: once for the scores, once for the values
    length = key.shape[0] if query.dim() == 2 else key.shape[1 if layer.batch_first else 0]
    length += (layer.bias_k is not None) + layer.add_zero_attn
    yield layer, 2 * queries * length * width, False
