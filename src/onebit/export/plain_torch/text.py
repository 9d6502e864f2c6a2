"""Pieces of Python text, laid out as ruff does it, and names for the values of a net, which may be any text."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable, Sequence

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


class Names:
    """Python names for texts: different ones for different texts, and none that is taken.

    Example:
        >>> names = Names(["torch"])
        >>> [names.make(text) for text in ("layer1.0", "layer1_0", "class", "1", "torch", "_x")]
        ['layer1_0', 'layer1_0_2', 'class_2', 'n1', 'torch_2', 'n_x']
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {*taken, *keyword.kwlist, *keyword.softkwlist}

    def make(self, text: str) -> str:
        """A new name that resembles `text`."""
        # an underscore in front would make it private, and two are rewritten in classes
        stem = re.sub("[^A-Za-z0-9_]", "_", text)
        stem = (stem if stem[0].isalpha() else f"n{stem}")[:LONGEST]
        name, count = stem, 1
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name


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
