"""Every public name of before imports, from the module that it was in."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import pytest

import onebit
from onebit.common.moved import MOVED

NAMES = [line.split() for line in (Path(__file__).parent / "public_names.txt").read_text(encoding="utf-8").splitlines()]
MODULES = sorted({module for module, _ in NAMES})


def test_the_list_is_long() -> None:
    assert len(NAMES) > 400
    assert {module for module, _ in NAMES} & MOVED.keys()


@pytest.mark.parametrize("module", MODULES)
def test_the_names_of_a_module_are_there(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        home = importlib.import_module(module)
        gone = [name for other, name in NAMES if other == module and getattr(home, name, None) is None]
    assert gone == []


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_module_says_where_it_is_now(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(importlib.import_module("sys").modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}"):
        module = importlib.import_module(old)
    importlib.import_module(MOVED[old])
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def test_packages_are_loaded_by_their_names() -> None:
    assert onebit.layers.BinaryLinear is onebit.BinaryLinear
    assert "runtime" in dir(onebit)
