"""Settings without effect, and what each of them belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from onebit.common.entries import Need
from onebit.data import DATASETS
from onebit.errors import UsageError
from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, WeightQuantizerEntry
from onebit.recipe.options import declared
from onebit.recipe.override import with_method
from onebit.recipe.reading import build_recipe, methods
from onebit.recipe.settings import Recipe


def _schedule(*names: str) -> Need:
    return Need(f"schedule {' or '.join(names)}", lambda recipe: recipe.schedule.name in names, "schedule.name")


def _samples_differ(recipe: Recipe) -> bool:
    drops = any(value for name, value in recipe.model.own.items() if "dropout" in name)
    return drops or recipe.optimizer.samples == 1 or _quantizer(recipe.model.weight_quantizer).random


def _draws_ensemble(recipe: Recipe) -> bool:
    return not recipe.draws or _quantizer(recipe.model.weight_quantizer).bayesian


def _quantizer(name: str | None) -> WeightQuantizerEntry:
    return WEIGHT_QUANTIZERS.entry(name)


def _reads_folder(dataset: str) -> bool:
    """Whether image files are decoded; not known of data of the user's own."""
    entry = DATASETS.get(dataset)
    return entry is None or entry.folder


def _above_zero(field: str) -> Need:
    return Need(field.partition(".")[2], lambda recipe: recipe.values()[field] > 0, field)


_BINARY = Need("binary weights", lambda recipe: recipe.model.weight_quantizer is not None, "model.weight_quantizer")
_NEW_BINARY = Need(
    "binary weights",
    lambda recipe: recipe.model.weight_quantizer is not None or recipe.model.init == "default",
    "model.weight_quantizer",
)
_TASKS = Need("several tasks", lambda recipe: recipe.continual.tasks > 0, "continual.tasks")
_TEACHER = Need("a teacher", lambda recipe: recipe.teacher is not None, "teacher")
_LABELS = Need(
    "labels in the training loss",
    lambda recipe: recipe.teacher is None or recipe.teacher_weight < 1,
    "teacher_weight",
)
# the last epoch of each stage has images of full size
_EPOCHS = Need("more than one epoch", lambda recipe: max(recipe.epochs, recipe.first_stage) > 1, "epochs")


def _late(recipe: Recipe) -> float | None:
    """The first epoch after which the schedule would change the rate, but no epoch follows."""
    marks = (*recipe.schedule.milestones, recipe.schedule.step_size or 0)
    return next((mark for mark in marks if mark >= recipe.epochs), None)


_LONGER = Need(
    "more epochs",
    lambda recipe: _late(recipe) is None,
    "epochs",
    lambda recipe: f"{_late(recipe):g} has no effect, because the last epoch is {recipe.epochs:g} (--epochs)",
)
_GROWS = Need("first_size", lambda recipe: recipe.augmentation.first_size is not None, "augmentation.first_size")
_FOLDER = Need("a folder of images", lambda recipe: _reads_folder(recipe.dataset), "dataset")
_HELD_OUT = Need("validation images", lambda recipe: recipe.validation != 0, "validation")
_WEIGHT_DECAY = _above_zero("optimizer.weight_decay")
_CLIPS = Need(
    "an optimizer that clips latents",
    lambda recipe: OPTIMIZERS.entry(recipe.optimizer.name).clips_latents,
    "optimizer.name",
)


def _quantizes_inputs(recipe: Recipe) -> bool:
    """Whether layers quantize their inputs; few bits are part of the activations of onebit's own models."""
    name = recipe.model.input_quantizer
    return name is not None and (recipe.model.is_own or INPUT_QUANTIZERS.entry(name).bits == 1)


_INPUT_QUANTIZER = Need(
    "an input quantizer", lambda recipe: recipe.model.input_quantizer is not None, "model.input_quantizer"
)
_PRIOR = Need(
    f"optimizer {' or '.join(declared('optimizer')['prior'].entries)}",
    lambda recipe: "prior" in recipe.optimizer.chosen(),
    "optimizer.name",
)
_BINARY_INPUTS = Need("binary inputs", _quantizes_inputs, "model.input_quantizer")

_CONVOLUTIONS = Need("a net with convolutions", lambda recipe: recipe.model.name != "mlp", "model.name")


def uses_lr(recipe: Recipe) -> bool:
    """Whether any parameters take `lr`, where latents may have a rate of another name and others `real_lr`."""
    latents_have = OPTIMIZERS.entry(recipe.optimizer.name).lr_of_latents
    return latents_have or recipe.optimizer.real_lr is None or recipe.model.weight_quantizer is None


def _other_norms(recipe: Recipe) -> bool:
    """Whether any BatchNorm takes `norm_momentum`; an MLP has none but those after dense layers."""
    return recipe.model.dense_norm_momentum is None or recipe.model.name != "mlp"


NEEDS: dict[str, tuple[Need, ...]] = {
    "model.value": (_BINARY,),
    "model.weight_options": (_BINARY,),
    "model.input_options": (_INPUT_QUANTIZER,),
    "model.padding_value": (_BINARY_INPUTS, _CONVOLUTIONS),
    "model.init": (_NEW_BINARY,),
    "model.norm_momentum": (
        Need("BatchNorm of which dense_norm_momentum is null", _other_norms, "model.dense_norm_momentum"),
    ),
    "optimizer.lr": (Need("parameters of which real_lr is null", uses_lr, "optimizer.real_lr"),),
    "optimizer.samples": (Need("random weights or dropout", _samples_differ, "model.weight_quantizer"),),
    "optimizer.real_lr": (_BINARY,),
    "optimizer.lr_scale": (_BINARY,),
    "optimizer.latent_clip": (_BINARY, _CLIPS),
    "optimizer.decay_latents": (_BINARY, _WEIGHT_DECAY),
    "optimizer.decay_norm": (_WEIGHT_DECAY,),
    "schedule.gamma": (_schedule("step", "milestones"),),
    "schedule.step_size": (_schedule("step"), _LONGER),
    "schedule.milestones": (_schedule("milestones"), _LONGER),
    "schedule.final_lr": (_schedule("linear", "cosine", "one_cycle", "exponential"),),
    "augmentation.padding_mode": (_above_zero("augmentation.crop_padding"),),
    "augmentation.elastic_smoothness": (_above_zero("augmentation.elastic"),),
    "augmentation.first_size": (_EPOCHS,),
    "augmentation.growing": (_GROWS,),
    "recompute_inputs": (_BINARY_INPUTS,),
    "continual.against": (_TASKS,),
    "continual.own": (_TASKS,),
    "continual.prior": (_TASKS, _PRIOR),
    "skip_broken": (_FOLDER,),
    "split_seed": (_HELD_OUT,),
    "loss": (_LABELS,),
    "label_smoothing": (_LABELS,),
    "teacher_weight": (_TEACHER,),
    "teacher_temperature": (_TEACHER,),
}
"""Setting -> what it needs. `needs_of` adds what follows from the entries of the tables."""


def needs_of(name: str) -> tuple[Need, ...]:
    """What a setting needs to have an effect."""
    if name == "draws":
        ways = [method for method, row in methods().items() if _quantizer(row["model"]["weight_quantizer"]).bayesian]
        ensemble = f"the ensemble of a Bayesian net (--method {' or '.join(ways)})"
        return (Need(ensemble, _draws_ensemble, "model.weight_quantizer"),)
    part, _, option = name.partition(".")
    found = declared("optimizer").get(option) if part == "optimizer" else None
    if found is None:
        return NEEDS.get(name, ())
    kind = found.chosen_by.removeprefix("model.").removesuffix(".name")

    def chosen(recipe: Recipe) -> bool:
        return recipe.values()[found.chosen_by] in found.entries

    return (Need(f"{kind} {' or '.join(found.entries)}", chosen, found.chosen_by), *found.option.needs)


def unused_settings(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """A sentence for each setting that has no effect; null, and false where it is the default, need nothing.

    Args:
        recipe: what is trained; a setting that a method in `continual.against` uses has an effect.
        names: flag names.

    Example:
        >>> unused_settings(Recipe(), ["optimizer.lr", "teacher_weight"])
        ['teacher_weight belongs to a teacher, but teacher is None']
    """
    values, defaults = _values(recipe), Recipe().values()
    named = [name for name in dict.fromkeys(names) if needs_of(name) and not _is_off(values[name], defaults.get(name))]
    if not named:
        return []
    learners = _learners(recipe)
    unused = []
    for name in named:
        lacking = [need for need in needs_of(name) if not need.holds(recipe)]
        if lacking and not any(_uses(learner, name, values[name]) for learner in learners):
            need = lacking[0]
            usual = f"belongs to {need.name}, but {need.field} is {values[need.field]!r}"
            unused.append(f"{name} {need.reason(recipe) if need.reason else usual}")
    return unused


def refuse_unused(recipe: Recipe, names: Iterable[str]) -> None:
    """Refuse requested settings that have no effect.

    Raises:
        UsageError: the first of them.
    """
    for unused in unused_settings(recipe, names):
        raise UsageError(f"{unused}: leave it out")


def refuse_clipping(recipe: Recipe) -> None:
    """Refuse clipped gradients with an optimizer whose gradients are as large as the number of images: nothing is left.

    Raises:
        UsageError: the setting that clips them.
    """
    for name in ("clip_grad_value", "clip_grad_norm"):
        limit = getattr(recipe.optimizer, name)
        if limit is not None and not OPTIMIZERS.entry(recipe.optimizer.name).clips_gradients:
            raise UsageError(
                f"optimizer.{name} {limit:g} would leave nothing of the gradients of {recipe.optimizer.name}, which "
                "are as large as its number of images and more: leave it out, or set it to null"
            )


def changed_settings(recipe: Recipe) -> list[str]:
    """The flag names of all settings that differ from the defaults."""
    return [name for name, _, _ in recipe.changed_from(Recipe())]


def _is_off(value: Any, default: Any) -> bool:
    return value is None or (value is False and default is not True) or value == default == 0


def _values(recipe: Recipe) -> dict[str, Any]:
    """All settings by flag name; the options of a quantizer one by one, and as a whole."""
    whole = {f"model.{name}": getattr(recipe.model, name) for name in ("weight_options", "input_options")}
    return whole | recipe.values()


def _uses(recipe: Recipe, name: str, value: Any) -> bool:
    """Whether a value of a setting has an effect."""
    return _values(recipe)[name] == value and all(need.holds(recipe) for need in needs_of(name))


def _learners(recipe: Recipe) -> list[Recipe]:
    """The recipes of the methods that learn the same tasks for comparison."""
    against = recipe.continual.against if recipe.continual.tasks else ()
    return [build_recipe(with_method(recipe, name)) for name in against]
