"""Write the recipes that are not trained yet into docs/results.md, with the published results."""

from __future__ import annotations

from pathlib import Path

import onebit

recipe = onebit.recipe

DOCUMENT = Path("docs/results.md")
HEADING = "## Not yet trained\n"
UNTRAINED = "not yet trained"
"""`measured` of a recipe that is not trained yet."""


def table() -> str:
    """Command, result and reference of each such recipe, as Markdown."""
    lines = ["| command | reached | published |", "|---|---|---|"]
    for name in recipe.recipe_names():
        settings = recipe.read_settings(recipe.recipe_path(name))
        if settings["measured"] == UNTRAINED:
            lines.append(f"| `onebit train {name}` | {UNTRAINED} | {settings['reference']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table at the end of its section, the last one of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, heading, section = text.partition(HEADING)
    introduction = section.partition("| command |")[0]
    DOCUMENT.write_text(before + heading + introduction + table(), encoding="utf-8")


if __name__ == "__main__":
    main()
