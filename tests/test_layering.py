"""The order of the modules: each imports only from those above it, in functions too, and torch only below the line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import onebit

ROOT = Path(onebit.__file__).parent

WITHOUT_TORCH = ["errors", "common", "nets", "packed", "native", "runtime", "language", "integer", "export", "data"]
WITH_TORCH = [
    *("quantizers", "layers", "evaluation", "optim", "models", "fold", "modules", "train", "recipe", "runs"),
    *("verification", "report", "trainer", "cli", "__main__"),
]
TORCH_MODULES = {
    *("common/torch_private.py", "export/plain_torch/parts.py", "export/plain_torch/target.py"),
}
"""Modules of torch-free packages that are for torch programs; nothing in their packages imports them."""
TORCH_FREE_MODULES = {
    *("evaluation/scores.py", "evaluation/packed_nets.py", "evaluation/__init__.py", "evaluation/loss_table.py"),
    *("train/__init__.py", "train/settings.py", "runs/__init__.py", "runs/names.py"),
    *("quantizers/__init__.py", "optim/__init__.py", "models/__init__.py"),
    *("quantizers/quantizer_table.py", "optim/settings.py", "models/settings.py"),
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipe").rglob("*.py")),
}
"""Modules without torch in packages that are for training otherwise: what packed nets use, and what a recipe is."""
ORDER = WITHOUT_TORCH + WITH_TORCH
# the package itself: public names, and old names of modules, that are imported when they are first used
FACADE = "__init__"


def part_of(path: Path) -> str:
    """The entry of ORDER that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if part_of(path) != FACADE)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax of a file, read once."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """(line, dotted name) of everything that a file imports, wherever it does."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    package = ["onebit", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else package[: len(package) - node.level + 1]
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def own_parts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, entry of ORDER) of every import from the package itself."""
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "onebit" and len(parts) > 1 and _is_module(parts[1]):
            yield line, parts[1]


@cache
def _is_module(name: str) -> bool:
    return (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()


def test_every_module_is_in_the_order() -> None:
    found = {part_of(path) for path in files()}
    assert found <= set(ORDER), f"add to ORDER: {sorted(found - set(ORDER))}"
    assert len(found) > 15


def test_each_module_imports_only_from_those_above_it() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path in files()
        for line, other in own_parts(path)
        if other not in ORDER or ORDER.index(other) > ORDER.index(part_of(path))
    ]
    assert wrong == []


def test_torch_is_imported_only_below_the_line() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in torch_free_files()
        for line, name in imports(path)
        if name.split(".")[0] == "torch"
    ]
    assert wrong == []


def test_nothing_imports_the_facade_or_imports_relatively() -> None:
    """Public names come from their own modules; of the package itself only the version is read."""
    wrong = []
    for path in files():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                public = {name for name in names if name != "__version__" and not _is_module(name)}
                if node.level or "*" in names or (node.module == "onebit" and public):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_no_file_imports_itself_through_others() -> None:
    def module_of(path: Path) -> str:
        return ".".join(["onebit", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")

    known = {module_of(path): path for path in files()}
    edges = {}
    for module, path in known.items():
        reached = set()
        for _, name in imports(path):
            while name not in known and "." in name:
                name = name.rpartition(".")[0]
            # a package and its modules are not a cycle: it names them, they do not name it
            if name in known and name != module:
                reached.add(name)
        edges[module] = reached
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in edges[module]:
                walk(other, (*above, module))
            done.add(module)

    for module in edges:
        walk(module, ())
    assert len(done) == len(known)


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after `code` ran in a fresh interpreter."""
    code += "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def torch_free_files() -> list[Path]:
    return [
        path
        for path in files()
        if (name := path.relative_to(ROOT).as_posix()) in TORCH_FREE_MODULES
        or (part_of(path) in WITHOUT_TORCH and name not in TORCH_MODULES)
    ]


def import_all(paths: list[Path]) -> str:
    names = [
        ".".join(["onebit", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__") for path in paths
    ]
    return "\n".join(f"import {name}" for name in names)


def test_everything_above_the_line_and_the_command_line_import_no_torch() -> None:
    command_line = [path for path in files() if part_of(path) in ("cli", "__main__")]
    loaded = loaded_by(import_all([*torch_free_files(), *command_line]))
    assert "onebit" in loaded
    assert not loaded & {"torch", "matplotlib", "rich"}


def test_a_machine_that_only_runs_packed_nets_loads_little() -> None:
    loaded = loaded_by("import onebit.runtime")
    assert not loaded & {"torch", "matplotlib", "rich", "yaml", "PIL", "pooch", "requests"}


def test_every_public_name_is_there() -> None:
    assert all(getattr(onebit, name) is not None for name in onebit.__all__)
    assert {*onebit.__all__} <= {*dir(onebit)}
    with pytest.raises(AttributeError, match="trian"):
        _ = onebit.trian
