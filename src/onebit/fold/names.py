"""The one name of an operation, whether a model calls it as a layer, a function, an operator or a tensor method."""

from __future__ import annotations

import operator
import re
from typing import Any

import torch
import torch.nn.functional as F

_HOMES = (torch, F, operator)
_SYNONYMS = {
    **{"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div"},
    **{"subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "negative": "neg", "mm": "matmul"},
    **{"concat": "cat", "concatenate": "cat", "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim"},
    **{"clip": "clamp"},
}


def canonical(target: Any) -> str:
    """`relu` for `nn.ReLU`, `F.relu`, `torch.relu_`, `x.relu()`; `maxpool` for `F.max_pool2d`.

    "" for what is not torch's own: another function of that name may compute something else.
    """
    if isinstance(target, type):
        known = target.__module__.startswith("torch.nn.modules.")
    else:
        known = isinstance(target, str) or any(vars(home).get(name_of(target)) is target for home in _HOMES)
    name = name_of(target).lower().rstrip("_")
    return re.sub("[12]d$", "", _SYNONYMS.get(name, name)).replace("_", "") if known else ""


def name_of(target: Any) -> str:
    """The name of a class, function or tensor method."""
    return str(getattr(target, "__name__", target))
