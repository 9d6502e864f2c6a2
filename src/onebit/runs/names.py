"""Check the names in a recipe, without torch."""

from __future__ import annotations

from onebit.common.tables import refuse_unknown
from onebit.evaluation.loss_table import LOSSES
from onebit.models.settings import MODELS
from onebit.optim.settings import OPTIMIZERS
from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import Recipe


def check_names(recipe: Recipe) -> None:
    """Refuse unknown names of models, quantizers, optimizers and losses of classifications; runs no custom code."""
    losses = [name for name, entry in LOSSES.entries().items() if entry.task == "classification"]
    custom = recipe.model.code().values()
    for known, name, kind in (
        (MODELS, recipe.model.name, "model"),
        (WEIGHT_QUANTIZERS, recipe.model.weight_quantizer, "weight quantizer"),
        (INPUT_QUANTIZERS, recipe.model.input_quantizer, "input quantizer"),
        (OPTIMIZERS, recipe.optimizer.name, "optimizer"),
        (losses, recipe.loss, "loss"),
    ):
        if name is not None and name not in custom:
            refuse_unknown(known, name, kind=kind)
