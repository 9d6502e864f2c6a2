"""Tables of entries whose properties are known before their code is imported."""

from __future__ import annotations

import functools
import importlib
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


def load(target: Any) -> Any:
    """The object that "module:name" names; anything but a string is returned unchanged."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of a table.

    Args:
        target: the object, or "module:name" of one that is imported when it is first used.
        leading: first arguments of the object, as `functools.partial` takes them.
    """

    target: Any
    leading: tuple[Any, ...] = ()

    @functools.cached_property
    def object(self) -> Any:
        """The object, with its leading arguments."""
        target = load(self.target)
        return functools.partial(target, *self.leading) if self.leading else target


AnyEntry = TypeVar("AnyEntry", bound=Entry)


class Table(UserDict[str, Any], Generic[AnyEntry]):
    """Name -> object; `entry(name)` gives the properties without importing the object.

    Args:
        kind: the class of the entries.
        rows: name -> entry, or only its target; also when it is added at run time.
        page: the document on entries of one's own, which the error of an unknown name mentions.
    """

    def __init__(self, kind: type[AnyEntry], rows: Mapping[str, Any], *, page: str | None = None) -> None:
        self._kind, self.page = kind, page
        super().__init__(rows)

    def entry(self, name: Any) -> AnyEntry:
        """The entry of a name; an empty one for an unknown name."""
        return self.data.get(name) or self._kind(name)

    def entries(self) -> Mapping[str, AnyEntry]:
        """Name -> entry."""
        return self.data

    def __getitem__(self, name: str) -> Any:
        return self.data[name].object

    def __setitem__(self, name: str, value: Any) -> None:
        self.data[name] = value if isinstance(value, Entry) else self._kind(value)
