"""How good a net is: test modes, scores, losses, calibration, training health, and counts of weights and bytes.

Names are loaded when they are first used, because calibration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onebit.evaluation.batches import predict_logits as predict_logits
    from onebit.evaluation.modes import evaluate as evaluate
    from onebit.evaluation.modes import reestimate_batch_norm_ as reestimate_batch_norm_

_MODULES = ("modes", "batches", "counts", "health")


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name not in _MODULES:
        for module in _MODULES:
            names = vars(importlib.import_module(f"onebit.evaluation.{module}"))
            if name in names:
                return names[name]
    raise AttributeError(f"module 'onebit.evaluation' has no attribute {name!r}")
