"""What `resolve` accepts and refuses without data, in little memory."""

from __future__ import annotations

import resource
from itertools import product

import pytest

from onebit.errors import UsageError
from onebit.models import MODELS
from onebit.models.settings import Mlp
from onebit.recipe import Recipe, build_recipe
from onebit.runs.resolve import resolve
from onebit.train.ranks import Ranks
from support.covering import DEEPER, covering

TWO = Ranks(0, 2)


@pytest.mark.parametrize(
    ("model", "dataset"),
    covering(
        product([name for name in MODELS if name != "unet"], ["folder", "arrays", "imagenet", "mine"]), heavy=DEEPER
    ),
)
def test_every_model_is_taken_for_images_of_any_size(model: str, dataset: str) -> None:
    """Daily each model for one data set."""
    resolve(build_recipe({"dataset": dataset, "model": {"name": model, "coding": "standardize"}}))


def test_a_check_takes_no_memory() -> None:
    resolve(build_recipe({"dataset": "arrays", "model": {"widths": [50, 3]}, "batch_size": 5000}))
    resolve(Recipe())  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resolve(Recipe(model=Mlp(widths=(784, 20_000, 20_000, 10))))  # 1.7 GB of them
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    with pytest.raises(UsageError, match="4,003 GB"):
        resolve(Recipe(model=Mlp(widths=(784, 1_000_000, 1_000_000, 10))))


def test_the_processes_that_train_together_are_checked() -> None:
    with pytest.raises(UsageError, match="one process"):
        resolve(build_recipe({"continual": {"tasks": 2}}), ranks=TWO)
    with pytest.raises(UsageError, match="batch_size is 2"):
        resolve(Recipe(batch_size=2), ranks=TWO)
