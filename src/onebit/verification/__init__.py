"""Proof that weights are binary and that a packed net computes what the trained one does."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy

if TYPE_CHECKING:
    from onebit.verification import agreement as agreement, inspection as inspection, proof as proof

__getattr__, __dir__, _ = lazy(__name__)
