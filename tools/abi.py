"""src/onebit/native/abi.py from the headers of the C library: python -m tools.abi

The library has the same hash of the headers compiled in, so that a library of other headers is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

NATIVE = Path(__file__).parents[1] / "src/onebit/native"
HEADERS, MODULE = (NATIVE / "csrc/onebit.h", NATIVE / "plain/numbers.h"), NATIVE / "abi.py"
NUMBERS = {"int32_t": "Int", "int64_t": "Long", "float": "Float", "double": "Double"}
TEXT = "Text"


def made(header: str) -> str:
    """The text of the module."""
    digest = hashlib.sha256(header.encode()).hexdigest()
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    lines = [
        '"""The structures and numbers of csrc/onebit.h, which documents them. Made by `python -m tools.abi`."""',
        "from __future__ import annotations",
        "import ctypes",
        "from typing import Any",
        f'HASH = "{digest}"\n"""The sha256 of the header."""',
        "Int, Long, Float, Double = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double",
        "Pointer, Text = ctypes.c_void_p, ctypes.c_char_p",
        *(f"{name[3:]} = {number}" for name, number in re.findall(r"#define (OB_\w+) (\d+)", code)),
        'def _numbers(names: str) -> dict[str, int]:\n    """Those of an enum, from 1 on."""\n'
        "    return {name: number for number, name in enumerate(names.split(), start=1)}",
        *enums(code),
        *kernels(code),
        'def _of(kind: Any, names: str) -> list[tuple[str, Any]]:\n    """Fields of one type."""\n'
        "    return [(name, kind) for name in names.split()]",
        *structures(code),
    ]
    return "\n\n".join(lines) + "\n"


def enums(code: str) -> Iterator[str]:
    """A dict for each enum, whose numbers begin with 1: OB_KERNEL_ADD_INT is KERNEL["add_int"]."""
    for body in re.findall(r"\benum\s*\{(.*?)\}", code, re.DOTALL):
        names = re.findall(r"OB_(\w+)\b(?!##)", body)
        if "ACTIVATIONS(" in body:
            names += [f"EPILOGUE_{name}" for name in re.findall(r"\bACTIVATION\((\w+), ", code)]
        if "KERNELS" in names:
            continue
        prefix = names[0].partition("_")[0]
        entries = [name[len(prefix) + 1 :].lower() for name in names]
        yield f"{prefix} = _numbers({words(entries)})"


def kernels(code: str) -> Iterator[str]:
    """The numbers of OB_KERNELS, those that an epilogue may end, and those that work on each number by itself."""
    rows = re.findall(r"KERNEL\((\w+), (\w+), (\d)\)", code)
    lowered = [(name.lower(), run, epilogue == "1") for name, run, epilogue in rows]
    yield f"KERNEL = _numbers({words([name for name, _, _ in lowered])})"
    yield f"EPILOGUE_KERNELS = frozenset(_numbers({words([name for name, _, epilogue in lowered if epilogue])}))"
    yield f"POINTWISE = frozenset(_numbers({words([name for name, run, _ in lowered if run == 'pointwise'])}))"


def structures(code: str) -> Iterator[str]:
    """A class for each structure: ob_call is CallStruct. A function pointer is a type of ctypes."""
    for body, name in re.findall(r"typedef struct \{((?:[^{}]|\{[^{}]*\})*)\} ob_(\w+);", code):
        fields = list(fields_of(body))
        parts = []
        for kind, group in groupby(fields, key=lambda field: field[0]):
            names = [field for _, field in group]
            parts.append(f'("{names[0]}", {kind})' if len(names) == 1 else f"*_of({kind}, {words(names)})")
        joined = ",\n        ".join(parts)
        yield f"class {class_of(name)}(ctypes.Structure):\n    _fields_ = [\n        {joined},\n    ]"


def words(names: list[str]) -> str:
    """A string of all names, in pieces that fit into lines."""
    *lines, last = textwrap.wrap(" ".join(names), 88)
    return " ".join(json.dumps(line) for line in (*(f"{line} " for line in lines), last))


def class_of(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) + "Struct"


def fields_of(body: str) -> Iterator[tuple[str, str]]:
    """(type of ctypes, name) of each field."""
    for line in filter(None, (" ".join(part.split()) for part in body.split(";"))):
        function = re.fullmatch(r"(\w+) \(\*(\w+)\)\((.*)\)", line)
        if function:
            answer = NUMBERS.get(function[1], "None")
            kinds = ", ".join(kind_of(argument) for argument in function[3].split(","))
            yield f"ctypes.CFUNCTYPE({answer}, {kinds})", function[2]
            continue
        first, *others = line.split(",")
        base, name = re.fullmatch(r"((?:const )?\w+) (.*)", first.strip()).groups()  # type: ignore[union-attr]
        for declared in (name, *others):
            yield field_of(base, declared.strip())


def field_of(base: str, declared: str) -> tuple[str, str]:
    """(type, name) of `*rows`, `kernel[2]` or `units`; a name that Python reserves gets an underscore."""
    if declared.startswith("*"):
        return (TEXT if base == "const char" else "Pointer"), declared.lstrip("* ")
    name, _, count = declared.partition("[")
    kind = NUMBERS[base]
    if count:
        kind += f" * {count.rstrip(']').removeprefix('OB_')}"
    return kind, f"{name}_" if name in ("in", "from") else name


def kind_of(argument: str) -> str:
    """The type of an argument: that of a structure, which may be given itself, or an address, or a number."""
    found = re.match(r"\s*(?:const )?(\w+) (\*?)", argument)
    assert found is not None
    if not found[2]:
        return NUMBERS[found[1]]
    known = re.fullmatch(r"ob_(\w+)", found[1])
    return f"ctypes.POINTER({class_of(known[1])})" if known and known[1] != "barrier" else "Pointer"


def text() -> str:
    """The module for the header as it is."""
    return made("".join(header.read_text(encoding="utf-8") for header in HEADERS))


if __name__ == "__main__":
    MODULE.write_text(text(), encoding="utf-8")
