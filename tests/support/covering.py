"""Which of many like cases of a test run daily, and which nightly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import pytest

from onebit.recipe import Recipe

DEEPER = frozenset({"resnet32", "resnet44", "resnet56", "resnet110", "resnet34", "vgg16"})
"""Models that differ from another one (resnet20, resnet18, vgg11) in depth alone."""

Traits = tuple[Hashable, ...]


def covering(
    cases: Iterable[Any], *, of: Callable[[Any], Traits] | None = None, heavy: Collection[Any] = ()
) -> list[Any]:
    """Cases for `parametrize`, in their order: a covering set runs daily, all others nightly.

    A covering set has each value of each argument at least once; of a full product it is a diagonal. `of` gives the
    traits of a case that count in place of its arguments. Cases with an argument in `heavy` always run nightly.
    """
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    light = [row for row in rows if not any(argument in heavy for argument in row)]
    traits = {row: list(enumerate(of(*row) if of else row)) for row in light}
    uses: Counter[tuple[int, Hashable]] = Counter()
    daily = set()
    while missing := {trait for row in light for trait in traits[row]} - uses.keys():
        row = max(light, key=lambda row: (len(missing.intersection(traits[row])), -sum(uses[t] for t in traits[row])))
        uses.update(traits[row])
        daily.add(row)
    return [pytest.param(*row, marks=() if row in daily else pytest.mark.nightly) for row in rows]


def recipe_traits(recipe: Recipe) -> Traits:
    """What recipes differ in but for numbers."""
    model = recipe.model
    ends, norms = (model.real_first, model.real_last), (model.norm_affine, model.last_norm)
    augmented = recipe.augmentation.crop_padding > 0, recipe.augmentation.flip
    return (
        *((model.name, model.weight_quantizer), model.input_quantizer, model.coding, ends, norms, recipe.dataset),
        *(recipe.optimizer.name, recipe.schedule.name, recipe.loss, augmented, bool(recipe.continual.tasks)),
    )
