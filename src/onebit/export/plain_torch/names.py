"""Python names for the values of a net, whose names may be any text such as `layer1.0.conv1`, `class` or `torch`."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

LONGEST = 40
MODULE_NAMES = frozenset(
    {
        *(
            "T_destination",
            "add_module",
            "apply",
            "bfloat16",
            "buffers",
            "call_super_init",
            "children",
            "compile",
            "cpu",
        ),
        *("cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer", "get_extra_state"),
        *("get_parameter", "get_submodule", "half", "ipu", "load_state_dict", "modules", "mtia", "named_buffers"),
        *("named_children", "named_modules", "named_parameters", "parameters", "register_backward_hook"),
        *("register_buffer", "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"),
        *("register_full_backward_pre_hook", "register_load_state_dict_post_hook", "register_module"),
        *("register_load_state_dict_pre_hook", "register_parameter", "register_state_dict_post_hook"),
        *("register_state_dict_pre_hook", "requires_grad_", "set_extra_state", "set_submodule", "share_memory"),
        *("state_dict", "to", "to_empty", "train", "training", "type", "xpu", "zero_grad"),
    }
)
"""Public attributes of `nn.Module`, which a layer must not hide."""
PROGRAM_NAMES = frozenset(
    {
        *dir(builtins),
        *("self", "x", "total", "parts", "l", "O", "I", "nn", "np", "F", "sys", "torch", "safetensors"),
        *("Path", "Tensor", "Net", "CLASSES", "load", "main"),
    }
)
"""Names that mean something in a program, or that a reader mistakes for a digit."""


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
