"""How good a net is: test modes, scores, losses, counts of parameters, and the health of a training.

The names of `onebit.evaluation.modes` are taken from here when they are first used: calibration needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onebit.common.lazy import lazy_modules

if TYPE_CHECKING:
    from onebit.evaluation import modes as modes
    from onebit.evaluation import precision as precision
    from onebit.evaluation.modes import evaluate as evaluate
    from onebit.evaluation.modes import predict_logits as predict_logits
    from onebit.evaluation.modes import reestimate_batch_norm_ as reestimate_batch_norm_


_modules = lazy_modules(__name__)


def __getattr__(name: str) -> Any:
    try:
        return _modules(name)
    except AttributeError:
        if name.startswith("_"):
            raise
        return getattr(importlib.import_module("onebit.evaluation.modes"), name)
