"""The steps of recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from onebit.layers.parametrized import PARAMETRIZED, kind_name, kind_of

Step = Callable[..., tuple[Tensor, ...]]
"""(gates of the input, gates of h, h[, cell state of an LSTM]) -> (next h[, next cell state])."""


def lstm_step(inputs: Tensor, hidden: Tensor, h: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
    """A step of an LSTM; gates in torch's order: input, forget, cell, output."""
    input_gate, forget, new, output = (inputs + hidden).chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + input_gate.sigmoid() * new.tanh()
    return output.sigmoid() * cell.tanh(), cell


def gru_step(inputs: Tensor, hidden: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """A step of a GRU; gates in torch's order: reset, update, new."""
    reset, update, new = inputs.chunk(3, dim=-1)
    h_reset, h_update, h_new = hidden.chunk(3, dim=-1)
    update = (update + h_update).sigmoid()
    new = (new + (reset + h_reset).sigmoid() * h_new).tanh()
    return (new + update * (h - new),)


STEPS: dict[str, Step] = {
    "LSTM": lstm_step,
    "GRU": gru_step,
    "RNN_TANH": lambda inputs, hidden, h: ((inputs + hidden).tanh(),),
    "RNN_RELU": lambda inputs, hidden, h: ((inputs + hidden).relu(),),
}
"""`mode` of torch -> its step."""


def mode_of(layer: Any) -> str:
    """The mode of a recurrent layer or cell of torch; "" for other modules."""
    known = kind_of(layer)  # not a class of another one that has its name
    if known not in PARAMETRIZED or not issubclass(known, (nn.RNNBase, nn.RNNCellBase)):
        return ""
    kind = kind_name(layer).removesuffix("Cell")
    return f"RNN_{layer.nonlinearity.upper()}" if kind == "RNN" else kind
