"""`Body` collects what operations add to a program: layers with weights, lines of the forward pass, and parts.

Values of the net may have any name, and get a valid Python name.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from onebit.packed import Value
from onebit.packed.nodes.node import per_channel

WIDTH = 120
MAX_NAME_LENGTH = 40
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
PROGRAM_NAMES = "self x l O I nn np sys torch safetensors Path Tensor Net CLASSES load main"
"""Names with a meaning in the program, besides the builtins, and names that look like digits."""
INDENT = " " * 8
DEFAULTS = {"stride": "1", "dilation": "1", "groups": "1", "padding": "0", "output_padding": "0"}
DEFAULTS |= {"count_include_pad": "True"}
"""Defaults of settings of torch's modules, which are left out."""


def new_name(text: str, taken: set[str]) -> str:
    """A new Python name that resembles `text`: "layer1.0" -> layer1_0, "class" -> class_2, "1" -> n1."""
    # no leading underscore: one would make it private, and two are mangled in classes
    stem = re.sub("[^A-Za-z0-9_]", "_", text)
    stem = (stem if stem[0].isalpha() else f"n{stem}")[:MAX_NAME_LENGTH]
    name, count = stem, 1
    while name in taken or keyword.iskeyword(name):
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


class Body:
    """The class of a net under construction; values: shapes and kinds of all values of the net."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = values
        self.layers: list[str] = []
        """Lines of `__init__`."""
        self.steps: list[str] = []
        """Lines of `forward`."""
        self.parts: set[str] = set()
        """Names of the functions and classes of `parts` that the program includes."""
        self.state: dict[str, np.ndarray] = {}
        """The state_dict."""
        self._attributes = {*MODULE_NAMES.split(), *all_parts()}

    def layer(self, name: str, kind: str, *arguments: object, **fields: Any) -> str:
        """Add a module; fields that are arrays are weights, others settings. Its expression: `self.conv1`."""
        attribute = new_name(name, self._attributes)
        if not kind.startswith("nn."):
            self.part(kind)
        given = [*map(str, arguments)]
        for key, value in fields.items():
            if isinstance(value, np.ndarray):
                self.state[f"{attribute}.{key}"] = np.ascontiguousarray(value)
            elif pair(value) != DEFAULTS.get(key):
                given.append(f"{key}={pair(value)}")
        self.layers.append(f"{INDENT}self.{attribute} = {kind}({', '.join(given)})")
        return f"self.{attribute}"

    def parameter(self, name: str, channels: np.ndarray, rank: int) -> str:
        """Add a parameter of channels, shaped for values with `rank` axes, ones until it is loaded; its expression."""
        attribute, value = new_name(name, self._attributes), per_channel(channels, rank + 1)
        sizes = ", ".join(map(str, value.shape))
        self.layers.append(f"{INDENT}self.{attribute} = nn.Parameter(torch.ones({sizes}))")
        self.state[attribute] = value
        return f"self.{attribute}"

    def part(self, name: str) -> str:
        """Include a function or class of `parts`; its name."""
        self.parts.add(name)
        return name

    def step(self, expression: str, *, into: str = "x") -> str:
        """Add a line that assigns an expression to a variable; the name of the variable."""
        self.steps.append(f"{INDENT}{into} = {expression}")
        return into


def pair(sizes: object) -> str:
    """(3, 3) as 3, the short form in torch."""
    return str(sizes[0] if isinstance(sizes, tuple) and len(set(sizes)) == 1 else sizes)


@cache
def all_parts() -> dict[str, str]:
    """Name -> source text of the functions and classes in `parts`."""
    text = resources.files(__package__).joinpath("parts.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    return {
        part.name: ast.get_source_segment(text, part) or ""
        for part in tree.body
        if isinstance(part, ast.FunctionDef | ast.ClassDef)
    }


def plain(text: str) -> str:
    """Text for a docstring."""
    return text.replace("\\", "/").replace('"', "'").strip()


def listing(start: str, items: Sequence[str], end: str, *, indent: str) -> str:
    """`start`, the items and `end` in one line, or with one line per item if that is too long."""
    line = f"{indent}{start}{', '.join(items)}{end}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([indent + start, *(f"{indent}    {item}," for item in items), indent + end])
