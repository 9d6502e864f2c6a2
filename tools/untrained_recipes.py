"""Writes the recipes that nobody has trained yet into docs/results.md, with what their sources reached."""

from __future__ import annotations

from pathlib import Path

import onebit

recipe = onebit.recipe

DOCUMENT = Path("docs/results.md")
HEADING = "## Not yet trained\n"
UNTRAINED = "not yet trained"
"""`measured` of a recipe until it has been trained."""


def table() -> str:
    """Command, result and reference of each such recipe, as Markdown."""
    lines = ["| command | reached | published |", "|---|---|---|"]
    for name in recipe.recipe_names():
        settings = recipe.read_settings(recipe.recipe_path(name))
        if settings["measured"] == UNTRAINED:
            lines.append(f"| `onebit train {name}` | {UNTRAINED} | {settings['reference']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put the table at the end of its section, which is the last one of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, heading, section = text.partition(HEADING)
    said = section.partition("| command |")[0]
    DOCUMENT.write_text(before + heading + said + table(), encoding="utf-8")


if __name__ == "__main__":
    main()
