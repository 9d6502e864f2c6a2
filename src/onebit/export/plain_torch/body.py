"""What the operations add to a program: layers with their weights, steps of the forward pass, and parts.

Text is laid out as ruff does it, and values of the net, whose names may be any text, get names in Python.
"""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from onebit.packed import Value

WIDTH = 120
LONGEST = 40
MODULE_NAMES = """
T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia
named_buffers named_children named_modules named_parameters parameters register_backward_hook register_buffer
register_forward_hook register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter
register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory
state_dict to to_empty train training type xpu zero_grad
"""
"""Public attributes of `nn.Module`, which a layer must not hide."""
PROGRAM_NAMES = "self x total parts l O I nn np F sys torch safetensors Path Tensor Net CLASSES load main"
"""Names that mean something in a program, or that a reader mistakes for a digit; so do the builtins."""
INDENT = " " * 8
DEFAULTS = {"stride": "1", "dilation": "1", "groups": "1", "padding": "0", "output_padding": "0"}
DEFAULTS |= {"count_include_pad": "True"}
"""Of the settings of torch's modules."""


def new_name(text: str, taken: set[str]) -> str:
    """A Python name that resembles `text` and is not taken: "layer1.0" -> layer1_0, "class" -> class_2, "1" -> n1."""
    # an underscore in front would make it private, and two are rewritten in classes
    stem = re.sub("[^A-Za-z0-9_]", "_", text)
    stem = (stem if stem[0].isalpha() else f"n{stem}")[:LONGEST]
    name, count = stem, 1
    while name in taken or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


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
        self._attributes = {*MODULE_NAMES.split(), *all_parts()}

    def layer(self, name: str, kind: str, *arguments: object, **fields: Any) -> str:
        """Add a module with its settings and its weights, which are arrays; the expression of it: `self.conv1`."""
        attribute = new_name(name, self._attributes)
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
        attribute = new_name(name, self._attributes)
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


def quoted(text: str) -> str:
    """A string literal, in the quotes that need fewer escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


def plain(text: str) -> str:
    """Text for a docstring."""
    return text.replace("\\", "/").replace('"', "'").strip()


def listing(start: str, items: Sequence[str], end: str, *, indent: str) -> str:
    """`start`, the items and `end` in one line, or one line for each item if that is too long."""
    line = f"{indent}{start}{', '.join(items)}{end}"
    if columns(line) <= WIDTH:
        return line
    return "\n".join([indent + start, *(f"{indent}    {item}," for item in items), indent + end])


def call(function: str, arguments: Sequence[str], *, indent: str) -> str:
    """A call in one line, with its arguments in the next, or with one line for each."""
    line = f"{indent}{function}({', '.join(arguments)})"
    inner = f"{indent}    {', '.join(arguments)}"
    if columns(line) <= WIDTH:
        return line
    if columns(inner) <= WIDTH:
        return f"{indent}{function}(\n{inner}\n{indent})"
    return listing(f"{function}(", arguments, ")", indent=indent)


def columns(text: str) -> int:
    """Columns that a text takes at most: letters of some scripts are two wide."""
    return sum(1 if unicodedata.east_asian_width(letter) in ("Na", "H", "N") else 2 for letter in text)
