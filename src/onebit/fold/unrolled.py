"""Recurrent layers as functions of each time step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import FoldError
from onebit.layers.parametrized import binary_parametrizations
from onebit.layers.recurrent import STEPS, mode_of

COMPUTED_BY = "computed_by"
"""Attribute of a tensor: the parametrization that computed this binary weight, or None."""


def unrolled(layer: Any, input: Any, hx: Any = None) -> Any:
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


def _weight(layer: Any, name: str) -> Any:
    weight = getattr(layer, name, None)
    if weight is not None:
        setattr(weight, COMPUTED_BY, binary_parametrizations(layer).get(name))
    return weight
