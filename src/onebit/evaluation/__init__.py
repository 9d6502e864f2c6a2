"""How good a net is: test modes, scores, losses, counts of parameters, and the health of a training.

The names of `onebit.evaluation.modes` are taken from here when they are first used: calibration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onebit.evaluation.modes import evaluate as evaluate
    from onebit.evaluation.modes import predict_logits as predict_logits
    from onebit.evaluation.modes import reestimate_batch_norm_ as reestimate_batch_norm_


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'onebit.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module("onebit.evaluation.modes"), name)
