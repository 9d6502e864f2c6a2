"""Check the names in a recipe, without torch."""

from __future__ import annotations

from onebit.common.tables import resolve
from onebit.evaluation.loss_table import LOSSES
from onebit.models.model_table import MODELS
from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import Recipe


def check_names(recipe: Recipe) -> None:
    """Refuse unknown names of models, quantizers, optimizers and losses of classifications; runs no custom code."""
    losses = [name for name, entry in LOSSES.entries().items() if entry.task == "classification"]
    for known, name, kind in (
        (MODELS, None if recipe.model.is_custom else recipe.model.name, "model"),
        (WEIGHT_QUANTIZERS, recipe.model.weight_quantizer, "weight quantizer"),
        (INPUT_QUANTIZERS, recipe.model.input_quantizer, "input quantizer"),
        (OPTIMIZERS, recipe.optimizer.name, "optimizer"),
        (losses, recipe.loss, "loss"),
    ):
        resolve(dict.fromkeys(known), name, kind=kind)  # without importing what the name stands for
