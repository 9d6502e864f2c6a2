"""Recurrent layers with one-bit weights: `torch.nn.LSTM`, `GRU` and `RNN` and their cells, with packed products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from onebit.common.torch_private import recurrent_names
from onebit.errors import UsageError
from onebit.layers.recurrent import STEPS, mode_of
from onebit.modules.layers import PackedLinear, WeightOf


class PackedRecurrent(nn.Module):
    """An LSTM, GRU or RNN with one-bit weights, called as torch's: (input, hx) -> (output, h_n); an LSTM adds c_n.

    The products with the inputs of all time steps are one call, those with h one call per step. For inference, without
    dropout between layers.

    Args:
        layer: torch's layer.
        weight_of: its weights by torch's names, such as "weight_ih_l0_reverse".
    """

    def __init__(self, layer: nn.RNNBase, weight_of: WeightOf) -> None:
        super().__init__()
        for name in recurrent_names(layer):
            if name.startswith("weight"):
                bias = getattr(layer, name.replace("weight", "bias"), None)
                self.add_module(name, PackedLinear(weight_of(name), bias))
        self.mode, self.batch_first, self.bidirectional = layer.mode, layer.batch_first, layer.bidirectional
        self.hidden_size, self.num_layers, self.proj_size = layer.hidden_size, layer.num_layers, layer.proj_size

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """The output for (L, N, F), (N, L, F) with batch_first, (L, F) or a PackedSequence."""
        if isinstance(input, PackedSequence):
            if hx is not None and input.sorted_indices is not None:
                hx = _each(hx, lambda state: state.index_select(1, input.sorted_indices))
            data, states = self._run(input.data, input.batch_sizes.tolist(), hx)
            if input.unsorted_indices is not None:
                states = _each(states, lambda state: state.index_select(1, input.unsorted_indices))
            return PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices), states
        single = input.dim() == 2
        if single:
            input = input.unsqueeze(1)
            hx = None if hx is None else _each(hx, lambda state: state.unsqueeze(1))
        elif self.batch_first:
            input = input.transpose(0, 1)
        steps, batch = input.shape[:2]
        data, states = self._run(input.flatten(0, 1), [batch] * steps, hx)
        output = data.view(steps, batch, data.shape[-1])
        if single:
            return output.squeeze(1), _each(states, lambda state: state.squeeze(1))
        return output.transpose(0, 1) if self.batch_first else output, states

    def _run(self, data: Tensor, sizes: list[int], hx: Any) -> tuple[Tensor, Any]:
        """The output and the last states, (layers · directions, N, size), for the rows of all steps."""
        shapes = [(self.num_layers * (1 + self.bidirectional), sizes[0], self.proj_size or self.hidden_size)]
        if self.mode == "LSTM":
            shapes.append((*shapes[0][:2], self.hidden_size))
        if hx is None:
            hx = [data.new_zeros(shape) for shape in shapes]
        begin = list(hx) if isinstance(hx, (tuple, list)) else [hx]
        if (got := [tuple(state.shape) for state in begin]) != shapes:
            raise UsageError(f"got hx {got}, expected {shapes}")
        last: list[Sequence[Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                state = [one[len(last)] for one in begin]
                output, ended = self._direction(f"l{layer}{suffix}", data, sizes, state)
                outputs.append(output)
                last.append(ended)
            data = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        states = tuple(torch.stack(each) for each in zip(*last, strict=True))
        return data, states if self.mode == "LSTM" else states[0]

    def _direction(
        self, name: str, data: Tensor, sizes: list[int], state: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """One layer in one direction. A step has a row for each sequence that is long enough, the longest first."""
        weights: dict[str, Any] = dict(self.named_children())
        hidden, project, step = weights[f"weight_hh_{name}"], weights.get(f"weight_hr_{name}"), STEPS[self.mode]
        order = slice(None, None, -1 if name.endswith("_reverse") else None)
        outputs = []
        for part in weights[f"weight_ih_{name}"](data).split(sizes)[order]:
            count, before = len(part), state
            whole = count == len(before[0])
            active = before if whole else [one[:count] for one in before]
            state = step(part, hidden(active[0]), *active)
            if project is not None:
                state = (project(state[0]), *state[1:])
            outputs.append(state[0])
            if not whole:
                state = [torch.cat([one, old[count:]]) for one, old in zip(state, before, strict=True)]
        return torch.cat(outputs[order]), state


class PackedCell(nn.Module):
    """An LSTMCell, GRUCell or RNNCell with one-bit weights, called as torch's: (input, hx) -> h; an LSTMCell adds c."""

    def __init__(self, layer: Any, weight_of: WeightOf) -> None:
        super().__init__()
        self.mode = mode_of(layer)
        self.weight_ih = PackedLinear(weight_of("weight_ih"), layer.bias_ih)
        self.weight_hh = PackedLinear(weight_of("weight_hh"), layer.bias_hh)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """The next state for (N, F) or (F,)."""
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.weight_hh.terms)
            hx = (zeros, zeros) if self.mode == "LSTM" else zeros
        state = hx if self.mode == "LSTM" else (hx,)
        state = STEPS[self.mode](self.weight_ih(input), self.weight_hh(state[0]), *state)
        return state if self.mode == "LSTM" else state[0]


def _each(states: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`function` of a state, or of both states of an LSTM."""
    return tuple(map(function, states)) if isinstance(states, (tuple, list)) else function(states)
