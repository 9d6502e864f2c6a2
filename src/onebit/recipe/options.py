"""Parts of a recipe whose entry, the optimizer or the model, declares options of its own."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, get_type_hints

from onebit.common.entries import Need
from onebit.models.model_table import MODELS
from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers.quantizer_table import WEIGHT_QUANTIZERS

MOST_SHOWN = 4
"""Entries that the description of an option names."""


class Option(NamedTuple):
    """An option that entries declare.

    Args:
        kind: the dataclass that declares it; hint: its type; text: its description.
        chosen_by: the field of a recipe that chooses the entry; entries: names of those that declare it.
        needs: what else it needs to have an effect.
    """

    kind: type
    hint: Any
    default: Any
    text: str
    chosen_by: str
    entries: tuple[str, ...]
    needs: tuple[Need, ...]

    def described(self) -> str:
        """The description, with the entries it belongs to."""
        shown, more = self.entries[:MOST_SHOWN], len(self.entries) - MOST_SHOWN
        return f"{', '.join(shown)}{f' and {more} more' if more > 0 else ''}: {self.text}"


def _declarations(part: str) -> Iterator[tuple[str, str, type | None]]:
    """(field that chooses the entry, its name, its dataclass) of all entries with options of a part."""
    if part == "model":
        yield from (("model.name", name, entry.options) for name, entry in MODELS.entries().items())
        return
    yield from (("optimizer.name", name, entry.options) for name, entry in OPTIMIZERS.entries().items())
    for name, entry in WEIGHT_QUANTIZERS.entries().items():
        yield "model.weight_quantizer", name, entry.optimizer_options


def declared(part: str, chosen: str | None = None) -> dict[str, Option]:
    """Name -> option of a part; where entries declare the same name, `chosen` or else the first of them counts.

    Args:
        part: "model" or "optimizer".
        chosen: name of an entry.
    """
    found: dict[str, Option] = {}
    rows = sorted(_declarations(part), key=lambda row: row[1] != chosen)
    for field, name, kind in rows:
        if kind is None:
            continue
        hints, texts = field_types(kind), descriptions(kind)
        for item in dataclasses.fields(kind):
            if item.name in found:
                option = found[item.name]
                found[item.name] = option._replace(entries=(*option.entries, name))
                continue
            needs = item.metadata.get("needs", ())
            text = texts.get(item.name, "")
            found[item.name] = Option(kind, hints[item.name], item.default, text, field, (name,), needs)
    return found


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """Field -> its type: a dataclass, bool, int, float, str, tuple[T, ...], dict[str, Any], None, or a union."""
    return get_type_hints(kind)


@functools.cache
def descriptions(kind: type) -> dict[str, str]:
    """Field -> its description under `Args:` in the docstring of a dataclass or of one of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        args = (inspect.cleandoc(base.__doc__ or "")).partition("Args:\n")[2]
        rows = re.findall(r"^    (\w+): ((?:.|\n {5,})+)", args, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in rows}
    return texts


def with_own(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a part with those under `own`, where `dataclasses.asdict` puts them, beside the others."""
    own = settings.get("own")
    return {**settings, **own, "own": {}} if isinstance(own, Mapping) else settings


class Part:
    """Base of parts of a recipe: options that entries declare are given and read like fields.

    `own` holds those that differ from their defaults, also of entries that are not chosen: a complete recipe of an
    earlier version names all of them.
    """

    PART: ClassVar[str]
    name: str
    own: dict[str, Any]

    def __init__(self, **settings: Any) -> None:
        own = dict(settings.pop("own", {}))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]  # each subclass is a dataclass
            if item.name != "own":
                object.__setattr__(self, item.name, settings.pop(item.name, item.default))
        known = declared(self.PART, self.name)
        own |= settings
        for name in own:
            if name not in known:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
        own = {name: value for name, value in own.items() if value != known[name].default}
        object.__setattr__(self, "own", own)
        for kind in {known[name].kind: None for name in own}:
            kind(**{name: value for name, value in own.items() if known[name].kind is kind})  # checks them
        self.__post_init__()

    def __post_init__(self) -> None:
        """The checks of the common fields."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name != "own":
            option = declared(self.PART, self.name).get(name)
            if option is not None:
                return self.own.get(name, option.default)
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def options_of(self, kind: type | None) -> Any:
        """The options that a dataclass declares; None without one."""
        return (
            None if kind is None else kind(**{item.name: getattr(self, item.name) for item in dataclasses.fields(kind)})
        )

    def takes(self, name: str) -> bool:
        """Whether the chosen entry declares an option of that name."""
        option = declared(self.PART, self.name).get(name)
        return option is not None and option.chosen_by == f"{self.PART}.name" and self.name in option.entries

    def set_of(self, kind: type | None) -> dict[str, Any]:
        """Those options of a dataclass that are set, without those that only refine another."""
        names = {item.name for item in dataclasses.fields(kind) if not item.metadata} if kind else ()
        return {name: value for name, value in self.own.items() if name in names}

    def settings(self) -> dict[str, Any]:
        """The common fields, all options of the chosen entry, and what differs from the defaults of others."""
        common = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}  # type: ignore[arg-type]
        del common["own"]
        known = declared(self.PART, self.name)
        chosen = {name: option.default for name, option in known.items() if self.takes(name)}
        return common | chosen | self.own
