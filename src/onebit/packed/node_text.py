"""A node as a line of text: `conv layer1.conv2 signs=64,576 kernel=3 padding=1`.

Words are separated by one space: the operation, the name of the output, then `field=number,number,…`. For an array the
numbers are its shape (for `signs`: rows and signs per row). For an attribute they are its values, written once if all
are equal and omitted if all are the default; those of `shape`, `axes` and `times` are always written in full.
`inputs=name,…` is omitted if the node reads the output of the node before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from onebit.errors import FormatError, short
from onebit.packed.net import INPUT, op_name
from onebit.packed.nodes import MOST_RANK, OPS, Node, Numbers

_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")

Take = Callable[[str, tuple[int, ...]], np.ndarray]
"""(field, shape) -> the next array of that field in the file; `signs` as words."""


def to_lines(nodes: Iterable[Node]) -> list[str]:
    """One line per node; `from_line` is the inverse for one node."""
    lines = []
    previous = (INPUT,)
    for node in nodes:
        words = [op_name(node), node.output]
        if node.inputs != previous:
            words.append(f"inputs={','.join(node.inputs)}")
        for name, array in node.stored.items():
            shape = (len(array), node.in_features) if name == "signs" else array.shape  # type: ignore[attr-defined]
            words.append(f"{name}={_text(shape)}")
        for name, numbers in node.attributes.items():
            value = getattr(node, name)
            values = (value,) if numbers.length == 1 else value
            if numbers.length is None:
                words.append(f"{name}={_text(values)}")
            elif set(values) != {numbers.default}:
                words.append(f"{name}={_text(values[:1] if len(set(values)) == 1 else values)}")
        lines.append(" ".join(words))
        previous = (node.output,)
    return lines


def from_line(line: object, previous: str, take: Take) -> Node:
    """The node that a line describes, after the node with the output `previous`; FormatError for any other text."""
    op, *words = line.split(" ") if isinstance(line, str) else [""]
    if not words or op not in OPS:
        raise FormatError(f"a node is {short(line)}, expected an op and a name; ops: {', '.join(OPS)}")
    kind = OPS[op]
    output, fields = words[0], _fields(kind, words[1:])
    try:
        inputs = tuple(fields.pop("inputs", previous).split(","))
        values: dict[str, Any] = {}
        for name, text in fields.items():
            numbers = _numbers(name, text, empty=name in kind.attributes and kind.attributes[name].length is None)
            if name in kind.attributes:
                values[name] = _attribute(kind.attributes[name], numbers)
                continue
            if len(numbers) != kind.arrays[name].rank or min(numbers) < 1:
                raise FormatError(f"{name} has the shape {text}, expected {kind.arrays[name].rank} positive integers")
            values[name] = take(name, numbers)
            if name == "signs":
                values["in_features"] = numbers[1]
        required = [name for name, attribute in kind.attributes.items() if attribute.default is None]
        required += [name for name, stored in kind.arrays.items() if not stored.optional]
        if missing := [name for name in required if name not in values]:
            raise FormatError(f"lacks the field {missing[0]!r}")
        return kind(inputs=inputs, output=output, **values)
    except FormatError as error:
        raise FormatError(f"node {short(output)} ({op}): {error}") from None


def _fields(kind: type[Node], words: list[str]) -> dict[str, str]:
    known = ("inputs", *kind.arrays, *kind.attributes)
    fields: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in known or name in fields:
            raise FormatError(f"a node has the unknown or repeated field {short(name)}")
        fields[name] = text
    return fields


def _numbers(name: str, text: str, *, empty: bool) -> tuple[int, ...]:
    numbers = text.split(",") if text or not empty else []
    if len(numbers) > MOST_RANK or not all(_NUMBER.fullmatch(number) for number in numbers):
        raise FormatError(f"{name} is {short(text)}, expected integers")
    return tuple(int(number) for number in numbers)


def _attribute(attribute: Numbers, numbers: tuple[int, ...]) -> int | tuple[int, ...]:
    if len(numbers) != 1 or attribute.length is None:
        return numbers
    return numbers[0] if attribute.length == 1 else numbers * attribute.length


def _text(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in numbers)
