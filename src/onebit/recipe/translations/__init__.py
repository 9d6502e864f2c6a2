"""Command lines and files of other repositories as `onebit` command lines (docs/coming-from.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onebit.recipe.flags import Word
from onebit.recipe.translations import binarynet, json_config

WANDB_WORD = "wandb_on"
"""The word of `onebit train config.json wandb_on`, as in that repository."""


def translate(words: Sequence[Word]) -> list[str] | None:
    """The `onebit` words for a command line of another repository; None for one of ours."""
    found = [Word("wandb", None, ("--wandb",)) if word[:2] == ("", WANDB_WORD) else word for word in words]
    options = {word.name: word.value for word in found}
    recipe = next((word for word in found if not word.name), None)
    config = None if recipe is None else json_config.read_config(Path(str(recipe.value)))
    if recipe is not None and config is not None:
        flags = json_config.flags_of(
            config, source=str(recipe.value), method=options.get("method"), task=options.get("task")
        )
        rest = [text for word in found if word is not recipe for text in word.typed]
        return ["train", *(text for name, value in flags.items() for text in (f"--{name}", value)), *rest]
    ours = None if found == [*words] else ["train", *(text for word in found for text in word.typed)]
    return binarynet.translate(found) or ours
