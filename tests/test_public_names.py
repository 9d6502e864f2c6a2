"""Public names and modules are loaded when they are first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from pkgutil import iter_modules

import pytest

import onebit


def test_packages_are_loaded_by_their_names() -> None:
    assert onebit.layers.BinaryLinear is onebit.BinaryLinear
    assert "runtime" in dir(onebit)


def test_modules_of_packages_are_loaded_by_their_names() -> None:
    code = "import sys, onebit; onebit.common.memory, onebit.runtime.timing; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert onebit.runs.opening.open_run.__name__ == "open_run"


@pytest.mark.parametrize("package", ["common", "evaluation", "models", "runs", "runtime", "train"])
def test_an_unknown_module_of_a_package_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'onebit.{package}.*' has no attribute 'no_such'"):
        _ = getattr(onebit, package).no_such


def test_type_checkers_see_the_same_names() -> None:
    stub = Path(onebit.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    typed = {alias.name: node.module for node in imports for alias in node.names}
    packages = {module.name for module in iter_modules(onebit.__path__)} - {"__main__", "cli"}
    assert typed.keys() == {*onebit.__all__, *packages}
    assert {name: module for name, module in typed.items() if name in onebit._HOME} == onebit._HOME
