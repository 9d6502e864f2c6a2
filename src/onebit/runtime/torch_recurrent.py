"""Recurrent layers of one-bit weights: `torch.nn.LSTM`, `GRU` and `RNN` and their cells, with packed products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from onebit.errors import UsageError
from onebit.runtime.torch_layers import PackedLinear

Step = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(gates of the input, gates of h, h, cell state) -> (next h, next cell state)."""


def lstm_step(inputs: Tensor, hidden: Tensor, h: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A step of an LSTM; gates in the order of torch: input, forget, cell, output."""
    assert cell is not None
    take, forget, new, give = (inputs + hidden).chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
    return give.sigmoid() * cell.tanh(), cell


def gru_step(inputs: Tensor, hidden: Tensor, h: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A step of a GRU; gates in the order of torch: reset, update, new."""
    reset, update, new = inputs.chunk(3, dim=-1)
    own_reset, own_update, own_new = hidden.chunk(3, dim=-1)
    update = (update + own_update).sigmoid()
    new = (new + (reset + own_reset).sigmoid() * own_new).tanh()
    return new + update * (h - new), None


def tanh_step(inputs: Tensor, hidden: Tensor, h: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A step of a plain recurrent layer."""
    return (inputs + hidden).tanh(), None


def relu_step(inputs: Tensor, hidden: Tensor, h: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A step of a plain recurrent layer with nonlinearity="relu"."""
    return (inputs + hidden).relu(), None


STEPS: dict[str, Step] = {"LSTM": lstm_step, "GRU": gru_step, "RNN_TANH": tanh_step, "RNN_RELU": relu_step}
"""`mode` of torch -> its step."""


class PackedRecurrent(nn.Module):
    """An LSTM, GRU or RNN of one-bit weights, called as torch's: (input, hx) -> (output, h_n); an LSTM adds c_n.

    The products of all time steps with the weights of the input are one call, those with h one call per step. For
    inference: there is no dropout between layers.

    Args:
        mode: a key of STEPS.
        weights: name of torch, such as "weight_ih_l0_reverse" -> packed weight, with its bias.
        hidden_size, num_layers, bidirectional, batch_first, proj_size: as in torch.
    """

    def __init__(
        self,
        mode: str,
        weights: dict[str, PackedLinear],
        *,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.add_module(name, weight)
        self.mode, self.hidden_size, self.num_layers, self.proj_size = mode, hidden_size, num_layers, proj_size
        self.bidirectional, self.batch_first = bidirectional, batch_first

    @property
    def input_size(self) -> int:
        """Features of the input."""
        first = self.get_submodule("weight_ih_l0")
        assert isinstance(first, PackedLinear)
        return first.terms

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """The output for (L, N, F), (N, L, F) with batch_first, (L, F) or a PackedSequence."""
        if isinstance(input, PackedSequence):
            sizes = input.batch_sizes.tolist()
            if hx is not None and input.sorted_indices is not None:
                hx = _each(hx, lambda state: state.index_select(1, input.sorted_indices))
            data, states = self._run(input.data, sizes, self._begin(input.data, sizes[0], hx))
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
        data = input.reshape(steps * batch, self.input_size)
        data, states = self._run(data, [batch] * steps, self._begin(input, batch, hx))
        output = data.view(steps, batch, data.shape[-1])
        if single:
            return output.squeeze(1), _each(states, lambda state: state.squeeze(1))
        return output.transpose(0, 1) if self.batch_first else output, states

    def _begin(self, like: Tensor, batch: int, hx: Any) -> tuple[Tensor, Tensor | None]:
        """The first h and cell state, (layers · directions, N, size)."""
        count = self.num_layers * (1 + self.bidirectional)
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * (self.mode == "LSTM")
        if hx is None:
            given = [like.new_zeros(count, batch, size) for size in sizes]
        else:
            given = list(hx) if isinstance(hx, (tuple, list)) else [hx]
        if [tuple(state.shape) for state in given] != [(count, batch, size) for size in sizes]:
            got = ", ".join(str(tuple(state.shape)) for state in given)
            raise UsageError(f"got hx {got}, expected {', '.join(str((count, batch, size)) for size in sizes)}")
        return given[0], given[1] if len(given) == 2 else None

    def _run(self, data: Tensor, sizes: list[int], begin: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Any]:
        hidden, cells = begin
        last: list[tuple[Tensor, Tensor | None]] = []
        for layer in range(self.num_layers):
            made = []
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                own = len(last)
                cell = None if cells is None else cells[own]
                output, state = self._direction(f"l{layer}{suffix}", data, sizes, hidden[own], cell)
                made.append(output)
                last.append(state)
            data = torch.cat(made, dim=-1) if len(made) > 1 else made[0]
        h = torch.stack([state[0] for state in last])
        if cells is None:
            return data, h
        return data, (h, torch.stack([state[1] for state in last if state[1] is not None]))

    def _direction(
        self, name: str, data: Tensor, sizes: list[int], h: Tensor, cell: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """One layer in one direction. A step has a row for each sequence that is long enough, the longest first."""
        own: dict[str, Any] = dict(self.named_children())
        hidden, project, step = own[f"weight_hh_{name}"], own.get(f"weight_hr_{name}"), STEPS[self.mode]
        gates = own[f"weight_ih_{name}"](data).split(sizes)
        backward = name.endswith("_reverse")
        made = []
        for part in reversed(gates) if backward else gates:
            count, rest, rest_cell = len(part), h[len(part) :], None if cell is None else cell[len(part) :]
            before = h if count == len(h) else h[:count]
            h, new = step(part, hidden(before), before, None if cell is None else cell[:count])
            if project is not None:
                h = project(h)
            made.append(h)
            if len(rest):
                h = torch.cat([h, rest])
                new = None if new is None or rest_cell is None else torch.cat([new, rest_cell])
            cell = new
        return torch.cat(made[::-1] if backward else made), (h, cell)

    def extra_repr(self) -> str:
        more = ", bidirectional" * self.bidirectional + ", batch_first" * self.batch_first
        return f"{self.mode}, {self.input_size} -> {self.hidden_size}, {self.num_layers} layers{more}"


class PackedCell(nn.Module):
    """An LSTMCell, GRUCell or RNNCell of one-bit weights, called as torch's: (input, hx) -> h; an LSTMCell adds c."""

    def __init__(self, mode: str, weight_ih: PackedLinear, weight_hh: PackedLinear) -> None:
        super().__init__()
        self.mode, self.weight_ih, self.weight_hh = mode, weight_ih, weight_hh

    @property
    def hidden_size(self) -> int:
        """Features of h."""
        return self.weight_hh.terms

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """The next state for (N, F) or (F,)."""
        shape = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            zeros = input.new_zeros(shape)
            hx = (zeros, zeros) if self.mode == "LSTM" else zeros
        h, cell = hx if self.mode == "LSTM" else (hx, None)
        new, cell = STEPS[self.mode](self.weight_ih(input), self.weight_hh(h), h, cell)
        return new if cell is None else (new, cell)


def _each(states: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`function` of a state, or of both states of an LSTM."""
    return tuple(map(function, states)) if isinstance(states, (tuple, list)) else function(states)
