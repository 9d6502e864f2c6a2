"""Parts of a recipe, the model and the optimizer, whose table entries declare further options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, NamedTuple

from onebit.common.entries import Option, Table
from onebit.common.fields import Checked, read
from onebit.models.model_table import MODELS
from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers.quantizer_table import WEIGHT_QUANTIZERS

TABLES: dict[str, dict[str, Table[Any]]] = {
    "model": {"model.name": MODELS},
    "optimizer": {"optimizer.name": OPTIMIZERS, "model.weight_quantizer": WEIGHT_QUANTIZERS},
}
"""Part of a recipe -> {field that chooses an entry: table whose entries declare options of that part}."""


class Declared(NamedTuple):
    """An option, the recipe field that chooses its entry, and the names of the entries that declare it."""

    option: Option
    chosen_by: str
    entries: tuple[str, ...]

    def described(self) -> str:
        """The description, with the entries it belongs to."""
        return f"{', '.join(self.entries)}: {self.option.text}"


def declared(part: str, chosen: str | None = None) -> dict[str, Declared]:
    """Name -> option of a part; of several entries that declare a name, `chosen` or else the first counts.

    Args:
        part: "model" or "optimizer".
        chosen: name of an entry.
    """
    found: dict[str, Declared] = {}
    for field, table in TABLES[part].items():
        for name, entry in sorted(table.entries().items(), key=lambda row: row[0] != chosen):
            for option in entry.options:
                first = found.get(option.name, Declared(option, field, ()))
                found[option.name] = first._replace(entries=(*first.entries, name))
    return found


def descriptions(kind: type) -> dict[str, str]:
    """Field -> its description under `Args:` in the docstring of a dataclass and its bases; empty under
    python -OO."""
    documents = [inspect.cleandoc(vars(base).get("__doc__") or "") for base in reversed(kind.__mro__[:-1])]
    args = "\n".join(text.partition("Args:\n")[2].partition("\n\n")[0] for text in documents)
    rows = re.findall(r"^    (\w+): ((?:.|\n {5,})+)", args, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in rows}


class Part(Checked):
    """Base of the model and the optimizer of a recipe: declared options are given and read like fields.

    `own` holds the options that differ from their defaults, also those of entries that are not chosen.
    """

    name: str
    own: dict[str, object]

    def __init__(self, **settings: Any) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]  # each subclass is a dataclass
            if item.name != "own":
                object.__setattr__(self, item.name, settings.pop(item.name, item.default))
        known, own = declared(self.PART, self.name), {}
        for name, value in {**settings.pop("own", {}), **settings}.items():
            if name not in known:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            option = known[name].option
            if (found := read(value, option.kind, name=f"{self.PART}.{name}")) != option.default:
                own[name] = found
        object.__setattr__(self, "own", own)
        self.__post_init__()

    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("_") or name == "own" else declared(self.PART, self.name).get(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
        return self.own.get(name, found.option.default)

    def chosen(self) -> dict[str, Any]:
        """The options that the chosen entry declares, with their defaults."""
        entry = TABLES[self.PART][f"{self.PART}.name"].entry(self.name)
        return {option.name: option.default for option in entry.options}

    def settings(self) -> dict[str, Any]:
        """The fields, all options of the chosen entry, and those of other entries that differ from their defaults."""
        names = (item.name for item in dataclasses.fields(self))  # type: ignore[arg-type]
        common = {name: getattr(self, name) for name in names if name != "own"}
        return common | self.chosen() | self.own
