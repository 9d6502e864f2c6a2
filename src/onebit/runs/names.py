"""Whether the names in a recipe are known. Loads no torch."""

from __future__ import annotations

from onebit.common.aliases import MODEL_ALIASES
from onebit.common.tables import resolve
from onebit.evaluation.loss_table import LOSSES
from onebit.models.model_table import MODELS
from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import Recipe
from onebit.recipe.optimizer import SCHEDULES


def check_names(recipe: Recipe) -> None:
    """Refuse unknown names of models, quantizers, optimizers, schedules and losses."""
    for known, name, kind in (
        ((*MODEL_ALIASES, *MODELS, *([recipe.model.name] if recipe.model.is_own else [])), recipe.model.name, "model"),
        (WEIGHT_QUANTIZERS, recipe.model.weight_quantizer, "weight quantizer"),
        (INPUT_QUANTIZERS, recipe.model.input_quantizer, "input quantizer"),
        (OPTIMIZERS, recipe.optimizer.name, "optimizer"),
        (SCHEDULES, recipe.schedule.name, "schedule"),
        (LOSSES, recipe.loss, "loss"),
    ):
        resolve(dict.fromkeys(known), name, kind=kind)  # without importing what the name stands for
