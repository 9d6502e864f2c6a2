"""Print the sizes of the code: lines, tokens, rooms and their imports, and the slowest tests of the last `make test`.

Nothing enforces them; `make lint` prints them so that a change shows its weight.
"""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "onebit"
TESTS_XML = ROOT / "build" / "tests.xml"
LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def count(folder: Path) -> tuple[int, int]:
    """Lines and tokens of the Python files below a folder; comments and layout are no tokens."""
    lines = tokens = 0
    for path in folder.rglob("*.py"):
        with tokenize.open(path) as file:
            lines += sum(1 for _ in file)
        with path.open("rb") as file:
            tokens += sum(token.type not in LAYOUT for token in tokenize.tokenize(file.readline))
    return lines, tokens


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms (a folder or file directly in the package) where the first imports from the second."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                parent = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names = [".".join([*parent, alias.name]) for alias in node.names]
                found |= {(room, name.split(".")[1]) for name in names if name.startswith("onebit.")}
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    return {(above, under) for above, under in found if under in rooms - {above}}


def circles(pairs: set[tuple[str, str]]) -> int:
    """Number of rooms that reach themselves through their imports."""
    reached = set(pairs)
    while new := {(a, d) for a, b in reached for c, d in pairs if b == c} - reached:
        reached |= new
    return sum(a == b for a, b in reached)


def main() -> None:
    for name in ("src", "tests", "tools", "benchmarks"):
        lines, tokens = count(ROOT / name)
        print(f"{name:<12}{lines:>8,} lines{tokens:>10,} tokens")
    pairs = arrows()
    print(f"rooms {len({room for pair in pairs for room in pair})}, arrows {len(pairs)}, circles {circles(pairs)}")
    if TESTS_XML.is_file():
        cases = [(float(case.get("time", 0)), case) for case in ElementTree.parse(TESTS_XML).iter("testcase")]
        for seconds, case in sorted(cases, key=lambda pair: -pair[0])[:10]:
            print(f"{seconds:>6.1f} s  {case.get('classname')}::{case.get('name')}")


if __name__ == "__main__":
    main()
