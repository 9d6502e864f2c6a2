"""From a recipe to a trained run folder, and back."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy

if TYPE_CHECKING:
    from onebit.runs import model as model, opening as opening, run as run

__getattr__, __dir__, _ = lazy(__name__)
