"""The training engine: the loop and what it consists of."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy

if TYPE_CHECKING:
    from onebit.train import history as history

__getattr__, __dir__, _ = lazy(__name__)
