"""Models under `torch.compile`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from onebit.quantizers.few_bits import FewBits


class Compiled(nn.Module):
    """A compiled model, which runs uncompiled until the first batches have set the ranges of its inputs.

    A range begins with the mean over all processes, and stays unset by a batch of zeros: a compiled pass can neither
    ask the other processes nor decide by a number.

    Args:
        model: shared, not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.compiled: Any = torch.compile(model)
        self._waiting = [module for module in model.modules() if isinstance(module, FewBits)]

    def forward(self, x: Any) -> Any:
        self._waiting = [quantizer for quantizer in self._waiting if not quantizer.has_begun()]
        return self.model(x) if self._waiting else self.compiled(x)
