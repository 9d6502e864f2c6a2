"""Which settings leave the summary and the reference of a shipped recipe on the card of a net."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from onebit.recipe import build_recipe, read_settings, recipe_path
from onebit.recipe.flags import read_words
from onebit.runs.card import run_card
from onebit.runs.opening import Run


@pytest.mark.parametrize(
    ("flags", "described"),
    [
        ([], True),
        (["--seed", "3", "--validation", "500", "--device", "cpu", "--precision", "fp32"], True),
        (["--epochs", "0.5"], False),
        (["--optimizer.lr", "0.01"], False),
    ],
)
def test_another_training_has_neither_summary_nor_reference(flags: list[str], described: bool, tmp_path: Path) -> None:
    recipe = build_recipe(read_settings(recipe_path("digits-smoke")), dict(word[:2] for word in read_words(flags)))
    run = Run(recipe, nn.Identity(), (1, 28, 28), 10, tmp_path / "best.safetensors", {"recipe": recipe.settings()})
    card = run_card(run, None)
    assert card is not None
    assert (card.summary is not None, card.reference is not None) == (described, described)
    assert set(str(card.command).split()) == {"onebit", "train", "digits-smoke", *flags}
