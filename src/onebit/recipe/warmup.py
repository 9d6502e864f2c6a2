"""The warm-up of the learning rate is counted in epochs: it shrinks with them and must end before training does."""

from __future__ import annotations

from dataclasses import replace

from onebit.recipe.settings import Recipe


def shrink_warmup(recipe: Recipe, *, epochs: float) -> Recipe:
    """The recipe with a warm-up that is the same share of training as before, of `epochs`; a longer training keeps it.

    Example:
        >>> long = Recipe(epochs=1, schedule=replace(Recipe().schedule, warmup=5))
        >>> shrink_warmup(long, epochs=100).schedule.warmup
        0.05
    """
    warmup = recipe.schedule.warmup * min(1, recipe.epochs / epochs)
    return replace(recipe, schedule=replace(recipe.schedule, warmup=warmup))
