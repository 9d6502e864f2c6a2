"""Quantizers of inputs to integers of few bits: y = step · clip(round(x/step), least, most).

The range is the rule for limit = most · step:

| range | limit | source |
|---|---|---|
| `lsq` | learned; rounding errors move it as well | LSQ, Esser et al. 2020, arXiv:1902.08153, eq. 1 to 3 |
| `pact` | learned; only clipped inputs move it | PACT, Choi et al. 2018, arXiv:1805.06085, eq. 2 and 3 |
| `dorefa` | 1 | DoReFa-Net, Zhou et al. 2016, arXiv:1606.06160, eq. 5 and 11 |
| `follow` | running mean of the largest magnitude of a batch | Jacob et al. 2018, arXiv:1712.05877, section 3.1 |

Zero is the integer 0 in all of them.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onebit.common.fields import read
from onebit.quantizers.base import IntegerInput, Quantizer, Surrogate, autocast_dtype, in_backward

Range = Literal["lsq", "pact", "dorefa", "follow"]
FOLLOWED = 0.1
"""Share of the newest batch in a running limit, as in BatchNorm."""
UNSEEN = 4.0
"""The limit before the first batch of training: four standard deviations of BatchNorm's outputs."""


def _gradients(
    gradient: Tensor, x: Tensor, result: Tensor, limit: Tensor, least: int, most: int, learns: str | None
) -> tuple[Tensor | None, ...]:
    """The gradients to x, result (None) and limit, see `FewBits`."""
    step = limit / most
    scaled = x / step
    inside = (scaled > least) & (scaled < most)
    gradient = gradient.to(x.dtype)
    through = gradient * inside
    if learns is None:
        return through, None, None
    # of LSQ, (y − x)/step inside and y/step outside; of PACT, y/step outside alone
    kept = x if learns == "lsq" else result.to(x.dtype)
    change = ((result.to(x.dtype) - torch.where(inside, kept, 0)) * gradient).sum(dtype=limit.dtype) / step
    if learns == "lsq":
        sample = x.shape[1:] if x.dim() > 1 else x.shape
        return through, None, change * math.sqrt(most / max(1, math.prod(sample)))
    return through, None, change / most


class FewBits(Quantizer):
    """step · clip(round(x/step), least, most) with step = limit/most; rounding is to even, as in torch.

    With v = x/step and g the gradient to y, the gradient to x is g · 1{least < v < most}. With n values in a sample,
    that to the limit is √(most/n) · Σ g·(round(clip(v)) − v · 1{least < v < most}) for `lsq` and
    Σ g·clip(v)/most · 1{v ≤ least or v ≥ most} for `pact`. The paper of LSQ learns the step, with the factor
    1/√(n·most): SGD moves the step equally in both. The limit is learned because Adam's updates are equally large for
    every parameter, and a step is far smaller than a range.

    The first batch of training sets a learned limit so that step = 2·mean|x|/√most, as in LSQ; if least is 0, negative
    inputs count as 0. Before, the limit is `UNSEEN`, stored as 0. The sign of a learned limit is ignored. Under
    `torch.compile` each process sets its limit, and each batch takes another pass: train on the first batch without
    it, as `fit` does.

    Args:
        range: `lsq`, `pact`, `dorefa` or `follow`, see the module.

    Raises:
        UsageError: another range.
    """

    least: ClassVar[int]
    most: ClassVar[int]
    limit: Tensor

    def __init__(self, range: str = "lsq") -> None:
        super().__init__()
        self.range = read(range, Range, name="range")
        self.begun = False
        self.repeatable = range != "follow"
        if range in ("lsq", "pact"):
            self.limit = nn.Parameter(torch.zeros(()))
        elif range == "follow":
            self.register_buffer("limit", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> a step times integers, of the same shape."""
        # a pass repeated by activation checkpointing must not move the limit again
        if self.training and self.range != "dorefa" and x.numel() and not in_backward():
            self._update_limit(x.detach())
        limit = self._limit(x)
        step = limit.detach() / self.most
        # in place, as memory traffic costs more than the arithmetic
        result = (x.detach() / step).round_().clamp_(self.least, self.most).mul_(step)
        learns = self.range if self.range in ("lsq", "pact") else None
        result = result.to(autocast_dtype(x))
        return Surrogate.apply(x, result, _gradients, (self.least, self.most, learns), result.detach(), limit)

    def integer_input(self) -> IntegerInput:
        limit = self._limit(torch.empty(0)).detach()
        return IntegerInput(limit / self.most, self.least, self.most)

    def _limit(self, x: Tensor) -> Tensor:
        """The positive limit, shape ()."""
        if self.range == "dorefa":
            return torch.ones((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        return torch.where(self.limit == 0, UNSEEN, self.limit.abs())

    @torch.no_grad()
    def _update_limit(self, x: Tensor) -> None:
        """Set a learned limit from the first batch of training, or update a running one from each batch."""
        compiling, follow = torch.compiler.is_compiling(), self.range == "follow"
        if self.begun and not follow:
            return
        if follow:
            now = (torch.stack(x.aminmax()).abs() if self.least else x).amax().clamp(min=0).to(self.limit.dtype)
        else:
            magnitude = x.abs() if self.least else x.clamp(min=0)
            now = magnitude.mean(dtype=self.limit.dtype) * (2 * math.sqrt(self.most))
        # the same range in every process
        if not compiling and not self.begun and dist.is_available() and dist.is_initialized():
            dist.all_reduce(now)
            now = now / dist.get_world_size()
        # a learned limit from a checkpoint stays; a batch with NaN must not destroy the range
        later = self.limit.lerp(now, FOLLOWED) if follow else self.limit
        updated = torch.where(self.limit == 0, now, later)
        self.limit.copy_(torch.where(now.isfinite(), updated, self.limit))
        if not compiling:
            self.begun = bool(now > 0)

    def has_begun(self) -> bool:
        """Whether a batch of training has set the range."""
        self.begun = self.begun or self.range == "dorefa" or bool(self.limit != 0)
        return self.begun

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.begun = False


class UInt8(FewBits):
    """Integers 0 to 255 times a step; the range is learned (LSQ, arXiv:1902.08153), or another `range`."""

    least, most = 0, 255


class UInt4(FewBits):
    """Integers 0 to 15 times a step; the range is learned (LSQ, arXiv:1902.08153), or another `range`."""

    least, most = 0, 15


class UInt2(FewBits):
    """Integers 0 to 3 times a step; the range is learned (LSQ, arXiv:1902.08153), or another `range`."""

    least, most = 0, 3


class Int8(FewBits):
    """Integers -128 to 127 times a step; the range is learned (LSQ, arXiv:1902.08153), or another `range`."""

    least, most = -128, 127


class Int4(FewBits):
    """Integers -8 to 7 times a step; the range is learned (LSQ, arXiv:1902.08153), or another `range`."""

    least, most = -8, 7


class Int2(FewBits):
    """Integers -2 to 1 times a step; the range is learned (LSQ, arXiv:1902.08153), or another `range`."""

    least, most = -2, 1
