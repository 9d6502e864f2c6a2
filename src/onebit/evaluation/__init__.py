"""How good a net is: test modes, scores, losses, calibration, training health, and counts of weights and bytes.

Names are loaded when they are first used, because calibration needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy

if TYPE_CHECKING:
    from onebit.evaluation import modes as modes
    from onebit.evaluation.forward import predict_logits as predict_logits
    from onebit.evaluation.modes import evaluate as evaluate, reestimate_batch_norm_ as reestimate_batch_norm_

__getattr__, __dir__, _ = lazy(__name__, {"modes": "evaluate reestimate_batch_norm_", "forward": "predict_logits"})
