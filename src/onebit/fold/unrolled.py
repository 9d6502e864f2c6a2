"""Recurrent layers and `nn.MultiheadAttention` as functions of their weights, for the tracer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import FoldError
from onebit.layers.parametrized import binary_parametrizations, kind_of
from onebit.layers.recurrent import STEPS, mode_of

COMPUTED_BY = "computed_by"
"""Attribute of a tensor: the parametrization that computed this binary weight, or None, its rows here, and its name."""
MASKED = 1e30
"""What is subtracted from scores that do not count."""


def _unrolled(layer: Any, input: Any, hx: Any = None) -> Any:
    """The forward of torch's LSTM, GRU or RNN, or of a cell, by functions of its weights, for a batch of (L, F)."""
    step, is_cell = STEPS[mode_of(layer)], isinstance(layer, nn.RNNCellBase)
    if not hasattr(input, "dim") or input.dim() != 3 - is_cell:
        raise FoldError(f"{type(layer).__name__} expects a batch of {'samples' if is_cell else 'sequences'}")
    x = input.unsqueeze(1) if is_cell else input if layer.batch_first else input.transpose(0, 1)
    given = [] if hx is None else [*hx] if isinstance(hx, (tuple, list)) else [hx]
    layers, directions = (1, 1) if is_cell else (layer.num_layers, 1 + layer.bidirectional)
    ends = list[Any]()
    for number in range(layers):
        made = []
        for suffix in ("", "_reverse")[:directions]:
            name = "" if is_cell else f"_l{number}{suffix}"
            of_input, of_state, project = (_weight(layer, f"weight_{kind}{name}") for kind in ("ih", "hh", "hr"))
            biases = [getattr(layer, f"bias_{kind}{name}", None) for kind in ("ih", "hh")]
            state = [one if is_cell else one[len(ends)] for one in given]
            if not state:
                sizes = [layer.hidden_size if project is None else layer.proj_size, layer.hidden_size]
                state = [torch.zeros(len(x), size) for size in sizes[: 1 + (mode_of(layer) == "LSTM")]]
            inputs, order, outputs = F.linear(x, of_input, biases[0]), range(x.shape[1]), list[Tensor]()
            for at in reversed(order) if suffix else order:
                state = [*step(inputs[:, at], F.linear(state[0], of_state, biases[1]), *state)]
                if project is not None:
                    state[0] = F.linear(state[0], project)
                outputs.append(state[0])
            made.append(torch.stack(outputs[::-1] if suffix else outputs, 1))
            ends.append(state)
        x = torch.cat(made, -1) if directions > 1 else made[0]
    if is_cell:
        return tuple(ends[0]) if len(ends[0]) > 1 else ends[0][0]
    last = tuple(torch.stack(each) for each in zip(*ends, strict=True))
    return x if layer.batch_first else x.transpose(0, 1), last if len(last) > 1 else last[0]


def _attended(
    layer: Any,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """The output and the weights of `nn.MultiheadAttention` with a constant mask that is the same for all samples."""
    masked = attn_mask is not None
    if query.dim() != 3 or key_padding_mask is not None or (masked and not isinstance(attn_mask, Tensor)):
        raise FoldError("MultiheadAttention: expected a batch of sequences, and no masks but a constant one")
    parts, width = [], layer.embed_dim
    for at, (kind, x) in enumerate(zip("qkv", (query, key, value), strict=True)):
        rows = slice(at * width, (at + 1) * width)
        weight = _weight(layer, f"{kind}_proj_weight")
        weight = _weight(layer, "in_proj_weight", rows) if weight is None else weight
        x = F.linear(x, weight, None if layer.in_proj_bias is None else layer.in_proj_bias[rows])
        x = x if layer.batch_first else x.transpose(0, 1)
        parts.append(x.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2))
    q, k, v = parts
    scores = q @ k.mT * layer.head_dim**-0.5
    if masked:  # unlike the function, the layer masks what is true
        scores = scores + as_numbers(~attn_mask if attn_mask.dtype == torch.bool else attn_mask)
    weights = scores.softmax(-1)
    y = (weights @ v).transpose(1, 2).flatten(2)
    y = F.linear(y if layer.batch_first else y.transpose(0, 1), _weight(layer.out_proj, "weight"), layer.out_proj.bias)
    return y, (weights.mean(1) if average_attn_weights else weights) if need_weights else None


def as_numbers(mask: Tensor) -> Tensor:
    """What is added to scores: a boolean mask names those that count."""
    return torch.where(mask, 0.0, -MASKED) if mask.dtype == torch.bool else mask.float().clamp(min=-MASKED)


def _weight(layer: Any, name: str, rows: slice = slice(None)) -> Any:
    weight = getattr(layer, name, None)
    if weight is not None:
        weight = weight[rows]
        label = "out_proj.weight" if name == "weight" else name
        setattr(weight, COMPUTED_BY, (binary_parametrizations(layer).get(name), rows, label))
    return weight


def unrolling_of(module: Any) -> Any:
    """What replaces the forward of a module; None for the modules that stay as they are."""
    if kind_of(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn:
        return partial(_attended, module)
    return partial(_unrolled, module) if mode_of(module) else None
