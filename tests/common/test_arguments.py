"""Wrong and unusual arguments of public functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import onebit
from onebit.errors import OnebitError, UnknownNameError, UsageError
from onebit.evaluation.forward import try_model
from onebit.models import create_model
from onebit.recipe import build_recipe
from onebit.runtime import run

DATA = onebit.load_dataset("toy")
IMAGES = DATA.test.images


def make_model() -> nn.Module:
    return create_model("mlp", widths=(64, 8, 4), input_shape=(1, 8, 8)).eval()


MODEL = make_model()
PACKED = onebit.pack(MODEL)


def adam(model: nn.Module = MODEL) -> torch.optim.Optimizer:
    return onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=1e-3)))


def fit(model: Any = MODEL, data: Any = DATA, optimizer: Any = None, **settings: Any) -> None:
    optimizer = adam(model if isinstance(model, nn.Module) else MODEL) if optimizer is None else optimizer
    onebit.fit(model, data, optimizer, **{"epochs": 1, **settings})


@pytest.mark.parametrize(
    ("attempt", "kind"),
    [
        (lambda: run(PACKED, IMAGES / 255), UsageError),
        (lambda: fit(data=IMAGES), UsageError),
        (lambda: fit(loss="l1"), UnknownNameError),
        (lambda: onebit.clip_latents_(torch.optim.Adam(MODEL.parameters())), UsageError),
        (lambda: build_recipe({"learning": 1}), UsageError),
    ],
    ids=["floats for pixels", "no targets", "unknown loss", "no latent groups", "unknown field"],
)
def test_wrong_arguments_are_refused(attempt: Callable[[], Any], kind: type[OnebitError]) -> None:
    with pytest.raises(kind):
        attempt()


def test_groups_without_latents_are_accepted() -> None:
    """`latent_groups` marks each group with or without latents, so that none at all is known to be intended."""
    real = create_model("mlp", widths=(64, 8, 4), weight_quantizer=None)
    unclipped = onebit.latent_groups(MODEL, lr=1e-3, latent_clip=None)
    own = [{"params": list(MODEL.parameters()), "latent_clip": 1.0}]
    for groups in (onebit.latent_groups(real, lr=1e-3), unclipped, own):
        onebit.clip_latents_(torch.optim.Adam(groups))


def test_fit_takes_an_optimizer_without_latent_groups() -> None:
    """Nothing was asked to be clipped; `fit` says so where latents leave their range."""
    torch.manual_seed(0)
    model = make_model()
    with pytest.warns(UserWarning, match="the optimizer does not clip them"):
        assert len(onebit.fit(model, DATA, torch.optim.Adam(model.parameters()), epochs=1)) == 1


def test_the_check_of_a_model_draws_nothing_and_changes_no_mode() -> None:
    model = nn.Sequential(onebit.InputCoding(), nn.Flatten(), nn.Dropout(0.5).eval(), nn.Linear(64, 4))
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    try_model(model, torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert torch.equal(torch.rand(4), wanted)
    assert [module.training for module in model] == [True, True, False, True]
