"""What the operations add to a program: layers with their weights, steps of the forward pass, and parts."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from onebit.export.plain_torch.text import MODULE_NAMES, WIDTH, Names, call, listing
from onebit.packed import Value

INDENT = " " * 8
DEFAULTS = {"stride": "1", "dilation": "1", "groups": "1", "padding": "0", "output_padding": "0"}
DEFAULTS["count_include_pad"] = "True"
"""Of the settings of torch's modules."""


class Body:
    """The class of a net while its lines are written; known: shapes and kinds of all values of the net."""

    def __init__(self, known: Mapping[str, Value]) -> None:
        self.known = known
        self.layers: list[str] = []
        """Lines of `__init__`."""
        self.steps: list[str] = []
        """Lines of `forward`."""
        self.parts: set[str] = set()
        """Names of what the program has of `parts`."""
        self.state: dict[str, np.ndarray] = {}
        """The weights, by their names in the state_dict."""
        self._attributes = Names([*MODULE_NAMES.split(), *all_parts()])

    def layer(self, name: str, kind: str, *arguments: object, **fields: Any) -> str:
        """Add a module with its settings and its weights, which are arrays; the expression of it: `self.conv1`."""
        attribute = self._attributes.make(name)
        if not kind.startswith("nn."):
            self.part(kind)
        given = [*map(str, arguments)]
        for key, value in fields.items():
            if isinstance(value, np.ndarray):
                self.state[f"{attribute}.{key}"] = np.ascontiguousarray(value)
            elif pair(value) != DEFAULTS.get(key):
                given.append(f"{key}={pair(value)}")
        self.layers.append(call(f"self.{attribute} = {kind}", given, indent=INDENT))
        return f"self.{attribute}"

    def parameter(self, name: str, value: np.ndarray, *, start: str = "ones") -> str:
        """Add a parameter of the net itself, all ones or zeros until the weights are loaded; the expression of it."""
        attribute = self._attributes.make(name)
        sizes = ", ".join(map(str, value.shape))
        self.layers.append(f"{INDENT}self.{attribute} = nn.Parameter(torch.{start}({sizes}))")
        self.state[attribute] = value
        return f"self.{attribute}"

    def part(self, name: str) -> str:
        """The name of something in `parts`, which the program then has."""
        self.parts.add(name)
        return name

    def step(self, expression: str, *, into: str = "x") -> str:
        """Add a line that computes something on the way to the value of a node; the name of its variable."""
        function, _, rest = expression.partition("(")
        line = f"{INDENT}{into} = {expression}"
        if rest.endswith(")") and "(" not in rest:  # a call, perhaps with long names
            line = call(f"{into} = {function}", rest[:-1].split(", "), indent=INDENT)
        self.steps.append(line)
        return into

    def list_of(self, items: Sequence[str]) -> str:
        """Add lines with a long list; the name of its variable."""
        self.steps.append(listing("parts = [", items, "]", indent=INDENT))
        return "parts"


def pair(sizes: object) -> str:
    """(3, 3) as torch takes it: 3."""
    return str(sizes[0] if isinstance(sizes, tuple) and len(set(sizes)) == 1 else sizes)


def fits_line(step: str) -> bool:
    """Whether the names in a line of `forward` are not so long that ruff would break it."""
    return len(INDENT + step) <= WIDTH


@cache
def all_parts() -> dict[str, str]:
    """The functions and classes of `parts`, by name, as they are written there."""
    text = resources.files(__package__).joinpath("parts.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    return {
        part.name: ast.get_source_segment(text, part) or ""
        for part in tree.body
        if isinstance(part, ast.FunctionDef | ast.ClassDef)
    }
