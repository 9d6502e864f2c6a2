"""Code never compares the name of an entry: the names of models, optimizers of latents, quantizers and methods are
written only in their modules, in tables and recipes, and in translations of other flags."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import onebit
from onebit.models import MODELS
from onebit.optim import OPTIMIZERS
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import methods

ROOT = Path(onebit.__file__).parent
OWN_RULES = {name for name, entry in OPTIMIZERS.entries().items() if entry.settings.own_rule}
NAMES = {*OWN_RULES, *MODELS, *WEIGHT_QUANTIZERS, *INPUT_QUANTIZERS, *methods()}
WORDS = {
    **dict.fromkeys(("sign", "real", "stochastic"), "words of the subject"),
    **dict.fromkeys(("uint8", "int8"), "types of numbers in numpy, torch and onnx"),
    "xnor": "the product of packed signs",
    **dict.fromkeys(("mlp", "binaryconnect", "bnn", "resnet20", "vgg_small"), "examples in help and docstrings"),
    **dict.fromkeys(("ste", "ste_sign"), "straight-through: an example in docstrings, and the default of binarize_"),
}
"""Names that are written elsewhere, and why."""
HOMES = {
    "quantizers/": {*WEIGHT_QUANTIZERS, *INPUT_QUANTIZERS, *methods(), *OWN_RULES},
    "models/": {*MODELS, "bireal"},
    "optim/settings.py": {*OWN_RULES, *WEIGHT_QUANTIZERS},
    "optim/__init__.py": {*OWN_RULES, "prox"},
    "optim/latents.py": {"bop", "bayesbinn"},
    "optim/bop.py": {"bop"},
    "optim/one_pass.py": {"prox"},
    "optim/bayesbinn.py": {"bayesbinn", "concrete_sign"},
    "optim/prox.py": {"prox", "proxquant"},
    # translations of names and flags that other repositories have
    "recipe/translations/": NAMES,
}
"""Folder or module -> the names that belong there."""


@cache
def sources() -> list[tuple[str, str]]:
    """(path below the package, text) of every module."""
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))
    ]


@pytest.mark.parametrize("name", sorted(NAMES - WORDS.keys()))
def test_a_name_is_written_in_its_own_modules_only(name: str) -> None:
    spelling = name.replace("_", "_?").replace("-", "[-_]")
    pattern = re.compile(rf"(?<![A-Za-z0-9]){spelling}(?![a-z0-9])", re.IGNORECASE)
    homes = tuple(home for home, names in HOMES.items() if name in names)
    wrong = [
        f"{path}:{number}: {line.strip()}"
        for path, text in sources()
        if not path.startswith(homes) and pattern.search(text)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert wrong == []


def test_every_exception_is_a_name() -> None:
    assert WORDS.keys() <= NAMES
    assert all((ROOT / home).exists() for home in HOMES if home != "recipe/translations/")
