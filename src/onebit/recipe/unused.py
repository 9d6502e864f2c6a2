"""Settings that a training would not use, and what each of them belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from onebit.errors import UsageError
from onebit.recipe.laying import with_method
from onebit.recipe.reading import build_recipe
from onebit.recipe.settings import Recipe, flatten

BAYESIAN = ("concrete_sign",)
"""Weight quantizers whose latents are a distribution of the weights; the tests hold this against the quantizers."""
RANDOM = (*BAYESIAN, "stochastic")
"""Weight quantizers that draw in training."""


class Owner(NamedTuple):
    """What uses a setting: its name, whether a recipe has it, and the field of the recipe that decides."""

    name: str
    stands_in: Callable[[Recipe], bool]
    field: str


def _optimizer(name: str) -> Owner:
    return Owner(f"optimizer {name}", lambda recipe: recipe.optimizer.name == name, "optimizer.name")


def _schedule(*names: str) -> Owner:
    return Owner(f"schedule {' or '.join(names)}", lambda recipe: recipe.schedule.name in names, "schedule.name")


def _samples_differ(recipe: Recipe) -> bool:
    model = recipe.model
    random = model.weight_quantizer in RANDOM or bool(model.dropout) or bool(model.input_dropout)
    return random or recipe.optimizer.samples == 1


_BOP, _BAYESBINN = _optimizer("bop"), _optimizer("bayesbinn")
_BINARY = Owner("binary weights", lambda recipe: recipe.model.weight_quantizer is not None, "model.weight_quantizer")
_DECAYS = Owner("decay_epochs", lambda recipe: recipe.optimizer.decay_epochs is not None, "optimizer.decay_epochs")
_TASKS = Owner("several tasks", lambda recipe: recipe.continual.tasks > 0, "continual.tasks")
_TEACHER = Owner("a teacher", lambda recipe: recipe.teacher is not None, "teacher")
_WEIGHT_DECAY = Owner("weight_decay", lambda recipe: recipe.optimizer.weight_decay > 0, "optimizer.weight_decay")

OWNERS: dict[str, tuple[Owner, ...]] = {
    "optimizer.gamma": (_BOP,),
    "optimizer.threshold": (_BOP,),
    "optimizer.decay_epochs": (_BOP,),
    "optimizer.gamma_decay": (_BOP, _DECAYS),
    "optimizer.threshold_decay": (_BOP, _DECAYS),
    "optimizer.data_scale": (_BAYESBINN,),
    "optimizer.latent_init": (
        _BAYESBINN,
        Owner("a training from new weights", lambda recipe: recipe.init_from is None, "init_from"),
    ),
    "optimizer.samples": (Owner("random weights or dropout", _samples_differ, "model.weight_quantizer"),),
    "optimizer.prox_freeze": (
        Owner("prox_strength", lambda recipe: recipe.optimizer.prox_strength is not None, "optimizer.prox_strength"),
    ),
    "optimizer.real_lr": (_BINARY,),
    "optimizer.lr_scale": (_BINARY,),
    "optimizer.latent_clip": (
        _BINARY,
        Owner("an optimizer that clips latents", lambda recipe: recipe.optimizer.name != "bop", "optimizer.name"),
    ),
    "optimizer.decay_latents": (_BINARY, _WEIGHT_DECAY),
    "optimizer.decay_norm": (_WEIGHT_DECAY,),
    "schedule.gamma": (_schedule("step", "milestones"),),
    "schedule.step_size": (_schedule("step"),),
    "schedule.milestones": (_schedule("milestones"),),
    "schedule.final_lr": (_schedule("linear", "cosine", "one_cycle", "exponential"),),
    "augmentation.padding_mode": (
        Owner("crop_padding", lambda recipe: recipe.augmentation.crop_padding > 0, "augmentation.crop_padding"),
    ),
    "augmentation.elastic_smoothness": (
        Owner("elastic", lambda recipe: recipe.augmentation.elastic > 0, "augmentation.elastic"),
    ),
    "recompute_inputs": (
        Owner("binary inputs", lambda recipe: recipe.model.input_quantizer is not None, "model.input_quantizer"),
    ),
    "continual.against": (_TASKS,),
    "continual.own": (_TASKS,),
    "teacher_weight": (_TEACHER,),
    "teacher_temperature": (_TEACHER,),
    "draws": (
        Owner(
            "the ensemble of a Bayesian net (--method bayesbinn)",
            lambda recipe: recipe.model.weight_quantizer in BAYESIAN or not recipe.draws,
            "model.weight_quantizer",
        ),
    ),
}  # fmt: skip
"""Flag name -> all that must be there for it to be used."""


def unused_settings(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Those of some settings that the training would not use, each as a sentence; what is switched off asks nothing.

    Args:
        recipe: what is trained; a setting that a method of its `continual.against` uses is used.
        names: flag names.

    Example:
        >>> unused_settings(Recipe(), ["optimizer.lr", "optimizer.gamma"])
        ["optimizer.gamma belongs to optimizer bop, but optimizer.name is 'adam'"]
    """
    values = flatten(dataclasses.asdict(recipe))
    named = [name for name in dict.fromkeys(names) if name in OWNERS and not _is_off(values[name])]
    if not named:
        return []
    learners = _learners(recipe)
    told = []
    for name in named:
        lacking = [owner for owner in OWNERS[name] if not owner.stands_in(recipe)]
        if lacking and not any(_uses(learner, name, values[name]) for learner in learners):
            owner = lacking[0]
            told.append(f"{name} belongs to {owner.name}, but {owner.field} is {values[owner.field]!r}")
    return told


def refuse_unused(recipe: Recipe, names: Iterable[str]) -> None:
    """Refuse settings that were asked for and that the training would not use.

    Raises:
        UsageError: the first of them.
    """
    for told in unused_settings(recipe, names):
        raise UsageError(f"{told}: leave it out")


def refuse_clipping(recipe: Recipe) -> None:
    """Refuse clipped gradients with BayesBiNN, whose gradients are as large as its N and more: no weight would flip.

    Raises:
        UsageError: the setting that clips them.
    """
    for name in ("clip_grad_value", "clip_grad_norm"):
        limit = getattr(recipe.optimizer, name)
        if recipe.optimizer.name == "bayesbinn" and limit is not None:
            raise UsageError(
                f"optimizer.{name} {limit:g} would leave nothing of the gradients of bayesbinn, which are as large as "
                "its number of images and more: leave it out, or set it to null"
            )


def changed_settings(recipe: Recipe) -> list[str]:
    """The flag names of all settings that are not what a recipe has by default."""
    return [name for name, _, _ in recipe.changed_from(Recipe())]


def _is_off(value: Any) -> bool:
    return value is None or value is False


def _uses(recipe: Recipe, name: str, value: Any) -> bool:
    """Whether a training uses the value of a setting."""
    held = flatten(dataclasses.asdict(recipe))[name]
    return held == value and all(owner.stands_in(recipe) for owner in OWNERS[name])


def _learners(recipe: Recipe) -> list[Recipe]:
    """Those of the methods that learn the same tasks."""
    against = recipe.continual.against if recipe.continual.tasks else ()
    return [build_recipe(with_method(recipe, name)) for name in against]
