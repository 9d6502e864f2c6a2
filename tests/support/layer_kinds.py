"""Every kind of torch layer that can be binary, small, with the shape of a batch for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class First(nn.Module):
    """The first of what a layer returns; attention gets its input three times, and a cell takes two steps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.layer(x, x[..., : self.layer.kdim], x[..., : self.layer.vdim], need_weights=False)[0]
        if isinstance(self.layer, nn.RNNCellBase):  # from a state of zeros nothing passes the recurrent weights
            one, two = x.unbind(1)[:2] if x.dim() == 3 else (x, x)
            found = self.layer(two, self.layer(one))
        else:
            found = self.layer(x)
        return found[0] if isinstance(found, tuple) else found


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "linear of a sequence": (lambda: nn.Linear(6, 4), (3, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, groups=2), (3, 6, 5)),
    "conv2d": (lambda: nn.Conv2d(6, 4, 3, padding=1), (3, 6, 5, 4)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 4, 2, stride=2), (3, 6, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(6, 4, 2, groups=2), (3, 6, 5, 4)),
    "attention": (lambda: nn.MultiheadAttention(6, 2, batch_first=True), (3, 5, 6)),
    "lstm": (lambda: nn.LSTM(6, 4, bidirectional=True), (3, 5, 6)),
    "gru": (lambda: nn.GRU(6, 4, num_layers=2), (3, 5, 6)),
    "rnn": (lambda: nn.RNN(6, 4), (3, 5, 6)),
    "lstm cell": (lambda: nn.LSTMCell(6, 4), (3, 6)),
    "gru cell": (lambda: nn.GRUCell(6, 4), (3, 6)),
    "rnn cell": (lambda: nn.RNNCell(6, 4), (3, 6)),
}
