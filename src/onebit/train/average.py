"""Exponential moving average of a net's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from onebit.common.torch_private import lerp_all_
from onebit.quantizers.few_bits import FewBits


class WeightAverage:
    """a ← decay·a + (1 − decay)·w for every parameter and BatchNorm statistic, after each optimizer step.

    Latent weights are averaged before their sign is taken, so the averaged net is as binary as the trained one. The
    average of a range limit starts at its first value above 0, which means "not set".

    Args:
        model: its weights are averaged.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self.state = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        few_bits = (name for name, module in model.named_modules() if isinstance(module, FewBits))
        limits = (f"{name}.limit".removeprefix(".") for name in few_bits)
        self._limits = [name for name in limits if name in self.state]

    @property
    def _tensors(self) -> dict[str, Tensor]:
        """The current tensors: a forward pass may assign a new tensor to a buffer."""
        return dict(self._model.state_dict(keep_vars=True))

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights."""
        tensors = self._tensors
        real = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        for name in self._limits:  # 0: not set
            self.state[name].copy_(torch.where(self.state[name] == 0, real[name].detach(), self.state[name]))
        lerp_all_([self.state[name] for name in real], [tensor.detach() for tensor in real.values()], 1 - self.decay)
        copy_tensors_(tensors, {name: tensor for name, tensor in self.state.items() if name not in real})

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The context in which the model holds the average."""
        kept = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            copy_tensors_(kept, self._tensors)

    def copy_to_model(self) -> None:
        """Replace the weights of the model by the average."""
        copy_tensors_(self.state, self._tensors)


@torch.no_grad()
def copy_tensors_(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Overwrite the tensors of `target` with those of the same names."""
    for name, tensor in target.items():
        tensor.copy_(source[name])
