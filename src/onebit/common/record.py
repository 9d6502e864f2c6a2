"""Records: JSON objects in files, declared as dataclasses with the types and bounds of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, TypeVar

from onebit.common.fields import Bound, MismatchError, field_types, read_exactly, within
from onebit.common.tables import did_you_mean
from onebit.errors import FormatError, short


def printable(longest: int) -> Bound:
    """Text of a limited length without control characters, which could change the terminal."""
    expected = f"printable text of at most {longest:,} characters"
    return Bound(expected, lambda value: len(value) <= longest and value.isprintable())


Text = Annotated[str, printable(200)]
Whole = Annotated[int, within(f"[0, {2**63})")]
_Made = TypeVar("_Made", bound="Record")


def check(value: object, hint: Any, *, name: str) -> Any:
    """`read_exactly`, with a FormatError that has the name."""
    try:
        return read_exactly(value, hint)
    except MismatchError as error:
        raise FormatError(f"{name} is {short(value)}, expected {error}") from None


@dataclass(frozen=True, eq=False)
class Record:
    """Base of a frozen dataclass that a file holds as a JSON object.

    Its fields are checked against their annotated JSON types and bounds. A file leaves out fields with their default
    values; it holds no null in their place.

    KIND: its name in messages. WRITTEN: fields with defaults that every file has. APART: fields that are not in the
        object, and not checked.

    Raises:
        FormatError: a field is unknown, missing, of another type or out of bounds.
    """

    # without annotations, which `field_types` would read once more for each class
    KIND = ""
    WRITTEN = tuple[str, ...]()
    APART = tuple[str, ...]()

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            if name not in self.APART:
                object.__setattr__(self, name, check(getattr(self, name), hint, name=f"{self.KIND} {name}"))

    def require(self, **true: bool) -> None:
        """Raise FormatError with the first field whose condition is false."""
        for name, holds in true.items():
            if not holds:
                value = short(getattr(self, name))
                raise FormatError(f"{self.KIND} {name} is {value}, which does not fit the other fields")

    def to_json(self) -> dict[str, Any]:
        """The JSON object; inverse of `from_json`."""
        defaults, values = self._defaults(), {name: getattr(self, name) for name in self._names()}
        return {name: _plain(value) for name, value in values.items() if value != defaults.get(name, MISSING)}

    @classmethod
    def from_json(cls: type[_Made], value: object, **apart: Any) -> _Made:
        """The record of a JSON object and the fields apart from it."""
        if not isinstance(value, dict):
            raise FormatError(f"{cls.KIND} is {short(value)}, expected an object")
        names, defaults = cls._names(), cls._defaults()
        for name in value:
            if name not in names:
                raise FormatError(f"{cls.KIND} has the unknown field {short(name)}{did_you_mean(name, names)}")
        for name in names:
            if name not in value and name not in defaults:
                raise FormatError(f"{cls.KIND} lacks the field {name!r}")
            if name in defaults and value.get(name, 0) is None:
                raise FormatError(f"{cls.KIND} {name} is null, expected a value or no field")
        return cls(**value, **apart)

    @classmethod
    def _names(cls) -> list[str]:
        return [item.name for item in fields(cls) if item.init and item.name not in cls.APART]

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """The defaults of the fields that a file may leave out."""
        known = {item.name: item for item in fields(cls) if item.name not in cls.WRITTEN}
        return {
            name: item.default if item.default_factory is MISSING else item.default_factory()
            for name, item in known.items()
            if item.default is not item.default_factory  # both are MISSING without a default
        }


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
