"""The code of a model of the user's own: found, checked, imported, called.

Importing a file runs it. Code that the user names is run. Code that only a file names, such as the recipe of a run
folder, is run only if it is below the current folder, outside of run folders, and the very file that was trained with:
opening a run folder of unknown origin runs nothing that is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import os
import sys
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from onebit.common.arguments import described
from onebit.common.files import read_regular
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError, first_line
from onebit.recipe.own_names import OwnName, split_own
from onebit.recipe.typed import argument_of
from onebit.train.history import holds_run

MOST_BYTES = 10_000_000
"""Largest source file."""


@dataclass(frozen=True)
class OwnCode:
    """A class or function that builds a model.

    name: as it was named; file: its source, None for a module without one; digest: of that file, "sha256:…".
    """

    name: str
    build: Callable[..., Any]
    file: Path | None
    digest: str | None

    def arguments(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Arguments as the types that the signature says; text that came from a flag becomes a number, a list …"""
        known = self.parameters()
        free = any(found.kind is found.VAR_KEYWORD for found in self._signature().values())
        typed = {}
        for name, value in given.items():
            if name not in known and not free:
                listed = did_you_mean(name, known) if known else "; it has none"
                raise UsageError(f"model {self.name!r} takes no argument {name!r}{listed}")
            hint, default = known.get(name, (None, inspect.Parameter.empty))
            typed[name] = argument_of(value, hint, default, name=f"model.{name}")
        for name, (_, default) in known.items():
            if default is inspect.Parameter.empty and name not in typed:
                raise UsageError(f"model {self.name!r} needs its argument {name!r}: add --model.{name} VALUE")
        return typed

    def parameters(self) -> dict[str, tuple[Any, Any]]:
        """Name -> (type or None, default or `inspect.Parameter.empty`) of what can be given by name."""
        source = self.build.__init__ if isinstance(self.build, type) else self.build  # type: ignore[misc]
        try:
            hints = typing.get_type_hints(source)
        except Exception:  # names that only a type checker knows
            hints = {}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        signature = self._signature().items()
        return {name: (hints.get(name), found.default) for name, found in signature if found.kind in named}

    def _signature(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(self.build).parameters
        except (TypeError, ValueError):
            return {}

    def __call__(self, arguments: Mapping[str, object]) -> Any:
        """What it builds; UsageError if it fails."""
        with running(f"model {self.name!r}: building it failed", self.file):
            return self.build(**self.arguments(arguments))


_LOADED: dict[tuple[str, str | None], ModuleType] = {}
"""(file or dotted module, digest of the file) -> the module that it became in this process."""


def load_code(name: str, *, named: bool, digest: str | None = None) -> OwnCode:
    """Import what builds a model.

    Args:
        name: `path/to/file.py:Class`, relative to the current folder, or `package.module:Class`.
        named: whether the user names it; else a file does, and the code must be the user's all the same.
        digest: of the file when the model was trained, if it is known.

    Warns:
        UserWarning: the file is another one than the model was trained with; or, before it is run, that it is run
            without having been named.
    """
    parts = split_own(name)
    file = _source(parts)
    source = b"" if file is None else _read(file)
    now = None if file is None else _digest(source)
    key = (parts.where if file is None else os.path.realpath(file), now)
    if key not in _LOADED:
        if not named:
            _check_known(name, file, now, digest)
            warnings.warn(f"the model is {name!r}: running {file}", stacklevel=2)
        _LOADED[key] = _import(parts, file if parts.is_file else None, source)
    module = _LOADED[key]
    if file is None and (found := getattr(module, "__file__", None)):
        file = Path(found)
    if now is None and file is not None and file.suffix == ".py":
        now = _digest(_read(file))
    if named and None not in (digest, now) and digest != now:
        warnings.warn(f"{file} has changed since the model was trained with it", stacklevel=2)
    return OwnCode(name, _attribute(module, parts, name, named=named), file, now)


def _digest(source: bytes) -> str:
    return f"sha256:{hashlib.sha256(source).hexdigest()}"


def _source(parts: OwnName) -> Path | None:
    """The file of the code, as far as it is known before anything is imported."""
    if parts.is_file:
        path = Path(parts.where)
        if not path.is_file():
            raise UsageError(f"{parts.where}: no such file, which is to hold the model {parts.attribute}")
        return path
    below = Path(*parts.where.split("."))
    return next((path for path in (below.with_suffix(".py"), below / "__init__.py") if path.is_file()), None)


def _read(file: Path) -> bytes:
    try:
        return read_regular(file, largest=MOST_BYTES)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror or error})") from None


def _check_known(name: str, file: Path | None, now: str | None, digest: str | None) -> None:
    """Refuse code that only a file names, unless it is the user's own, as the module says."""
    way = f"name it to run it: --model {name}"
    if file is None:
        raise UsageError(f"the model is {name!r}, code that is not below the current folder: {way}")
    place = Path(os.path.realpath(file))
    if not place.is_relative_to(Path.cwd().resolve()):
        raise UsageError(f"the model is {name!r}, code that is not below the current folder: {way}")
    if run := next((folder for folder in place.parents if _is_run(folder)), None):
        raise UsageError(f"the model is {name!r}, code inside the run folder {run}, of unknown origin: {way}")
    if digest is None:
        raise UsageError(f"the model is {name!r}, code that only a file names: {way}")
    if digest != now:
        raise UsageError(f"{file} has changed since the model was trained with it: {way}")


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").exists() or holds_run(folder)


def _import(parts: OwnName, file: Path | None, source: bytes) -> ModuleType:
    """Run the code; its folder, or the current one, is where it finds its own imports, as with `python file.py`."""
    where = str(file.resolve().parent if file else Path.cwd())
    if where not in sys.path:
        sys.path.insert(0, where)
    with running(f"importing {parts.where} failed", file):
        if file is None:
            return importlib.import_module(parts.where)
        # not the bare name: a file may be called torch.py
        module = ModuleType(f"own_model_{file.stem}")
        module.__file__ = str(file.resolve())
        sys.modules[module.__name__] = module
        # the very bytes of the digest: compiled files beside it are not read
        exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
        return module


def _attribute(module: ModuleType, parts: OwnName, name: str, *, named: bool) -> Callable[..., Any]:
    found: Any = module
    for attribute in parts.attribute.split("."):
        if not hasattr(found, attribute):
            known = [key for key, value in vars(found).items() if isinstance(value, type) and key[0] != "_"]
            raise UsageError(f"model {name!r}: {parts.where} has no {attribute!r}{did_you_mean(attribute, known)}")
        found = getattr(found, attribute)
    if not callable(found):
        raise UsageError(f"model {name!r}: expected a class or function that builds a module, got {described(found)}")
    if not named and getattr(found, "__module__", None) != module.__name__:
        raise UsageError(f"the model is {name!r}, which {parts.where} only imports: name it to run it: --model {name}")
    return found


@contextlib.contextmanager
def running(what: str, file: Path | None) -> Iterator[None]:
    """Code of the user runs: what it prints goes to stderr, its errors become one line with the line of its file."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a script may parse its own arguments
        frames = traceback.extract_tb(error.__traceback__)
        place = str(file.resolve()) if file else ""
        lines = [frame.lineno for frame in frames if file and os.path.realpath(frame.filename) == place]
        where = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"{what}: {type(error).__name__}: {first_line(Exception(error))}{where}") from error
