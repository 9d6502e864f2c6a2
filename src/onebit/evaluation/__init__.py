"""How good a net is: test modes, scores, losses, calibration, training health, and counts of weights and bytes.

Names are loaded when they are first used, because calibration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onebit.common.lazy import lazy

if TYPE_CHECKING:
    from onebit.evaluation import modes as modes
    from onebit.evaluation import precision as precision
    from onebit.evaluation.batches import predict_logits as predict_logits
    from onebit.evaluation.modes import evaluate as evaluate
    from onebit.evaluation.modes import reestimate_batch_norm_ as reestimate_batch_norm_

_MODULES = ("modes", "batches", "counts", "health")
"""Modules whose names the package has too."""
_module, __dir__, _ = lazy(__name__)


def __getattr__(name: str) -> Any:
    try:
        return _module(name)
    except AttributeError:
        for module in () if name.startswith("_") else _MODULES:
            names = vars(importlib.import_module(f"onebit.evaluation.{module}"))
            if name in names:
                return names[name]
        raise
