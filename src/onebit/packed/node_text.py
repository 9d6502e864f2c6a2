"""A node as a line of text: `conv layer1.conv2 signs=64,576 kernel=3 padding=1`.

Words are separated by one space: the operation, the name of the output, then `field=number,number,…`. For an array the
numbers are its shape (for `signs`: rows and signs per row). For an attribute they are its values, written once if all
are equal and omitted if all are the default; those of `shape`, `axes` and `times` are always written in full.
`inputs=name,…` is omitted if the node reads the output of the node before it. `like=name` stands for all other fields:
they are those of this earlier node, which has the same operation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from onebit.errors import FormatError, short
from onebit.packed.net import INPUT, op_name
from onebit.packed.nodes import OPS, Node
from onebit.packed.nodes.node import ARRAYS, MAX_RANK

_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")

Take = Callable[[str, tuple[int, ...]], np.ndarray]
"""(field, shape) -> the next array of the field in the file; `signs` as words."""


def to_lines(nodes: Iterable[Node], repeats: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """One line per node; inverse of `from_line`. repeats: see `PackedNet.repeats`."""
    lines = []
    previous = (INPUT,)
    for node in nodes:
        words = [op_name(node), node.output]
        if node.inputs != previous:
            words.append(f"inputs={','.join(node.inputs)}")
        previous = (node.output,)
        if node.output in repeats:
            lines.append(" ".join([*words, f"like={repeats[node.output]}"]))
            continue
        for name, array in node.stored.items():
            shape = (len(array), node.in_features) if name == "signs" else array.shape  # type: ignore[attr-defined]
            words.append(f"{name}={_text(shape)}")
        for name, numbers in node.attributes.items():
            value = getattr(node, name)
            values = (value,) if numbers.length == 1 else value
            if numbers.length is None:
                words.append(f"{name}={_text(values)}")
            elif value != getattr(type(node), name, None):  # the default
                words.append(f"{name}={_text(values[:1] if len(set(values)) == 1 else values)}")
        lines.append(" ".join(words))
    return lines


def from_line(line: object, earlier: dict[str, Node], take: Take) -> Node:
    """The node of a line after the nodes `earlier`, by their outputs; FormatError for any other text."""
    op, *words = line.split(" ") if isinstance(line, str) else [""]
    if not words or op not in OPS:
        raise FormatError(f"a node is {short(line)}, expected an op and a name; ops: {', '.join(OPS)}")
    kind, output = OPS[op], words[0]
    values: dict[str, Any] = {}
    previous = next(reversed(earlier), INPUT)
    try:
        for word in words[1:]:
            name, _, text = word.partition("=")
            if name in values or name not in ("inputs", "like", *kind.arrays, *kind.attributes):
                raise FormatError(f"has the unknown or repeated field {short(word)}")
            if name == "like":
                if type(like := earlier.get(text)) is not kind or len(words) > 2 + ("inputs" in values):
                    raise FormatError(
                        f"like is {short(text)}, expected the name of an earlier {op}, and no other fields"
                    )
                return replace(like, inputs=values.get("inputs", (previous,)), output=output)
            parts = text.split(",") if text else []
            if name == "inputs":
                values[name] = tuple(parts)
                continue
            if len(parts) > MAX_RANK or not all(map(_NUMBER.fullmatch, parts)):
                raise FormatError(f"{name} is {short(text)}, expected integers")
            numbers = values[name] = tuple(map(int, parts))
            if name in kind.arrays:
                if len(numbers) != ARRAYS[name][1] or min(numbers) < 1:
                    raise FormatError(f"{name} has the shape {text}, expected {ARRAYS[name][1]} positive integers")
                values[name] = take(name, numbers)
            elif len(numbers) == 1 and (length := kind.attributes[name].length):
                values[name] = numbers[0] if length == 1 else numbers * length
            if name == "signs":
                values["in_features"] = numbers[1]
        return kind(**{"inputs": (previous,), "output": output} | values)
    except (FormatError, TypeError) as error:  # TypeError: a field is missing
        raise FormatError(f"node {short(output)} ({op}): {error}") from None


def _text(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in numbers)
