"""The C text of an exported net: kernels, weights, stages."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from onebit.export.c.plan import Planner
from onebit.export.c.products import PART
from onebit.export.c.stages import real

_NAME = re.compile(r"[A-Za-z_]\w*")
_DEFINED = re.compile(
    r"#define (\w+)|^enum \{ (\w+)|^static (?:inline )?\w+ (\w+)|^(?:typedef [^{;]*?|\} )(\w+)[;(]", re.MULTILINE
)
_TYPES = {"uint8": "uint8_t", "int32": "int32_t", "uint32": "uint32_t", "int64": "int64_t", "float32": "float"}
_STATIC = {"tables": 4 * 4 * PART, "part": 4 * PART}  # bytes of static memory in kernels
WIDTH = 118


class Code(NamedTuple):
    """The parts of net.c: kernels, functions of the stages, and their calls; static_bytes: bytes of static memory."""

    kernels: str
    stages: str
    calls: str
    uses_floats: bool
    static_bytes: int


def code_of(plan: Planner) -> Code:
    stages, calls = functions(plan)
    known, of_stages = pieces(), _words(stages)
    used: set[str] = set()
    new = of_stages & known.keys()
    while new:
        used |= new
        new = set().union(*(known[name][1] for name in new)) & known.keys() - used
    found = {name: text for name, (text, _) in known.items() if name in used}
    words = of_stages.union(*(known[name][1] for name in used - {"value_t"}))
    floats = not words.isdisjoint(("float", "double", "f"))
    if not floats and "value_t" in found:
        found["value_t"] = found["value_t"].replace("    float f;\n", "").replace(", an integer or a real one", "")
    static = plan.arena_bytes + sum(_STATIC[name] for name in found if name in _STATIC)
    return Code("\n\n".join(found.values()), stages, calls, floats, static)


@cache
def pieces() -> dict[str, tuple[str, set[str]]]:
    """Name -> text and words of every kernel; each uses only kernels before it."""
    native, here = files("onebit.native") / "plain", files("onebit.export.c")
    found = {}
    for text in (native / "numbers.h", native / "tables.h", here / "memory.h", here / "kernels.h"):
        for piece in text.read_text(encoding="utf-8").split("\n\n")[1:]:  # after the comment of the file
            match = _DEFINED.search(_without_comments(piece))
            assert match is not None, piece
            found[str(match[match.lastindex or 0])] = piece.rstrip("\n"), _words(piece)
    return found


def _words(text: str) -> set[str]:
    return set(_NAME.findall(_without_comments(text)))


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def functions(plan: Planner) -> tuple[str, str]:
    """The functions of all stages, and their calls."""
    made, calls = [], []
    offsets = [str(memory.offset) for memory in plan.memories]
    for stage in plan.list:
        loops = [f"for (int32_t {variable} = 0; {variable} < {end}; {variable}++) {{" for variable, end in stage.loops]
        lines = [*stage.head, *loops, *stage.body, *["}"] * len(loops)]
        words = _words("\n".join(lines))
        given = {"input": f"const {plan.input_type} *input", "output": f"{plan.output_type} *output"}
        arguments = [name for name in given if name in words]
        name, declared = f"stage_{stage.index + 1}", ", ".join(given[name] for name in arguments) or "void"
        head = [comment("; ".join(stage.titles)), f"static void {name}({declared}) {{"]
        text = "\n".join(_indented([*head, *lines, "}"]))
        made.append(re.sub(r"@(\d+)@", lambda match: offsets[int(match[1])], text))
        calls.append(f"    {name}({', '.join(arguments)});")
    return "\n\n".join(made), "\n".join(calls)


def _indented(lines: list[str]) -> list[str]:
    """Indent lines of C by their braces."""
    made, depth, once = [], 0, 0
    for line in lines:
        depth -= line.startswith("}")
        made.append("    " * (depth + once) + line)
        depth += line.endswith("{")
        # a loop without braces holds the next line
        once = once + 1 if line.startswith("for") and not line.endswith("{") else 0
    return made


def comment(text: str) -> str:
    """A comment; the text cannot end it, continue a line, or form a trigraph."""
    return f"/* {plain_text(text)} */"


def plain_text(text: str) -> str:
    """Printable ASCII without */, backslashes and ??, for comments."""
    text = text.encode("ascii", "backslashreplace").decode().replace("\\", "/")
    text = "".join(c if " " <= c <= "~" else "?" for c in text).replace("??", "? ?")
    return text.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def block(lines: list[str]) -> str:
    """A comment of several lines."""
    texts = [part for line in lines for part in textwrap.wrap(plain_text(line), WIDTH - 3) or [""]]
    return "\n".join([*(f"{' *' if k else '/*'} {text}".rstrip() for k, text in enumerate(texts)), " */"])


def dimensions(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"


def string(text: str) -> str:
    """A C string literal of a text in UTF-8."""
    letters = text.encode("utf-8", "surrogatepass").decode("latin-1")
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\?' else f"\\{ord(c):03o}" for c in letters) + '"'


def array(name: str, values: np.ndarray) -> str:
    """The definition of a constant array."""
    if values.dtype == np.float32:
        words = [real(number) for number in values.reshape(-1)]
    else:
        suffix = "u" if values.dtype == np.uint32 else ""
        numbers = values.reshape(-1).tolist()
        words = ["-2147483647 - 1" if number == -(2**31) else f"{number}{suffix}" for number in numbers]
    lines = ["   "]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > WIDTH:
            lines.append("   ")
        lines[-1] += f" {word},"
    body = "\n".join(lines)
    return f"static const {_TYPES[values.dtype.name]} {name}[{values.size}] = {{\n{body}\n}};"
