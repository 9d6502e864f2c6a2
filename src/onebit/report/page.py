"""The page: one self-contained HTML file with the tables, the pictures and the settings."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from onebit.common import __version__
from onebit.common.files import OWN
from onebit.recipe import flag_text
from onebit.report.drawing import Picture
from onebit.report.run_folders import Group, data_name, differing_settings
from onebit.report.tables import Table
from onebit.report.wording import MISSING, printable


def render_page(groups: Sequence[Group[Any]], tables: Sequence[Table], pictures: Sequence[Picture]) -> bytes:
    """The page as UTF-8: `page.html`, in which every text is escaped."""
    from jinja2 import Environment
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) else printable(value, limit=1000)

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=shown)
    runs = sum(len(group.runs) for group in groups)
    drawn = [
        {"heading": heading, "caption": caption, "data": Markup(base64.b64encode(path.read_bytes()).decode("ascii"))}
        for heading, path, caption in pictures
    ]
    head = ["setting", *(group.label for group in groups)]
    differing = _settings(differing_settings(groups), *groups)
    page = environment.from_string(files("onebit.report").joinpath("page.html").read_text("utf-8")).render(
        own=OWN.decode(),
        title=groups[0].label if len(groups) == 1 else f"Comparison of {len(groups)} recipes",
        subtitle=f"{runs} run{'s' if runs > 1 else ''} on {data_name(groups)}",
        tables=[*tables, *([Table("Settings that differ", head, differing)] if differing else [])],
        pictures=drawn,
        settings=[
            Table(group.label, [], _settings(["runs", *group.settings], group)) for group in groups if group.settings
        ],
        version=__version__,
    )
    return page.encode("utf-8")


def _settings(keys: Iterable[str], *groups: Group[Any]) -> list[list[str]]:
    """A row for each setting, with its value in each group."""

    def value(group: Group[Any], key: str) -> str:
        if key == "runs":
            return ", ".join(run.name for run in group.runs)
        return ", ".join(dict.fromkeys(flag_text(run.settings[key]) for run in group.runs if key in run.settings))

    return [[key, *(value(group, key) or MISSING for group in groups)] for key in keys]
