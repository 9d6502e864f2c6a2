"""Words that this repository does not use: `make lint`, or `python tools/plain_words.py [FILE …]`.

British spellings, anywhere in a file; and odd phrases, in prose: docstrings, comments, strings and Markdown. Prints
`path:line: 'what was found' (say what to write instead)` for each and exits with status 1 if there is one.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

PLACES = (
    *(
        "src/**/*.py",
        "src/**/*.[ch]",
        "src/**/*.js",
        "src/**/*.html",
        "src/**/*.yaml",
        "src/**/*.md",
        "tools/*.py",
        "benchmarks/*.py",
        "examples/*.py",
    ),
    *(
        "docs/**/*.md",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "notebooks/*.ipynb",
        "Makefile",
        "pyproject.toml",
    ),
)

OLD_NAMES = {"COLOURS", "GREY", "centre", "colour", "licence", "standardise"}
"""Names that still work, with a warning, and names in file formats: allowed in code, in quotes or backticks, and before
the colon of an `Args:` section."""

_IZE = (
    "apolog author binar canonical categor capital central character crystall custom digit discret emphas equal "
    "factor final formal general global harmon homogen ideal initial internal item legal linear local material maxim "
    "memor minim mobil modern modular neutral normal optim orthogonal organ parallel parameter penal polar popular "
    "priorit quant random rational real recogn regular sanit scrutin sensit serial special stabil standard summar "
    "symbol symmetr synchron system theor token trivial util vector visual"
)
_OR = "arm behavi cand col endeav fav flav harb hon hum lab neighb od rig rum splend tum vap vig"
_DOUBLED = "channel dial equal fuel funnel initial label level marshal model panel pencil signal total travel"

SPELLINGS = {
    rf"(?:{_IZE.replace(' ', '|')})is(?:e|ing|able|ation)": "…iz…",
    r"(?:anal|catal|paral)ys(?:e(?!s\b)|ed|ing)": "…yz…",
    rf"(?<![a-z])(?:dis)?(?:{_OR.replace(' ', '|')})our": "…or…",
    r"centre|centring": "center",
    r"(?:centi|kilo|micro|milli|nano|\b)metres?\b": "meter",
    r"(?<![a-z])(?:calib|fib|lit|lust|spect|theat)res?(?![a-z])": "…er",
    rf"(?:{_DOUBLED.replace(' ', '|')})l(?:ed|ing|er)(?![a-z])": "one l: labeled",
    r"(?<![a-z])(?:un)?(?:burnt|dreamt|leapt|learnt|spelt|spoilt)(?![a-z])": "…ed",
    r"(?<![a-z])grey": "gray",
    r"(?<![a-z])(?:ana|cata)logue": "analog, catalog",
    r"(?<![a-z])(?:de|of)fence|(?<![a-z])licence|(?<![a-z])pretence": "…ense",
    r"(?<![a-z])practis": "practice",
    r"(?<![a-z])artefact": "artifact",
    r"\b(?:whilst|amongst)\b": "while, among",
    r"(?:acknowled|jud)gement": "…dgment",
    r"\b(?:ageing|aluminium|fulfil|maths|programme|sceptical|skilful|tyre)s?\b": "the American spelling",
    r"\bfor ever\b": "forever",
    r"\bper cent\b": "percent",
    r"\bother way round\b": "other way around",
}
"""Pattern -> what to say instead. Case does not matter; matched inside of identifiers too."""

PHRASES = {
    r"\b(?-i:Of) (?!course\b)": "who does what: subject, verb, object",
    r"; of (?:an?|the|each|all|every|this|these|those|which) [^\n,.;:]{1,40}, ": "for …, or a sentence of its own",
    r"\bso many\b(?!(?: \w+)? that\b)": "the number of …; N …",
    r"\bwhich see\b": "see …",
    r"\btold\b(?! apart)": "given, reported, shown",
    r"(?<!that )\bsaid\b": "stated, given, reported",
    r"\bsays? of\b": "says about",
    r"\bstands? (?!for\b|out\b|in for\b|alone\b|by\b|\.|,)": "is, is written, appears",
    r"\b(?:meets?|met)\b(?! (?:\w+ )?(?:requirement|condition|criteri|expectation|need|goal|target|deadline))": (
        "finds, hits, is multiplied by, waits for"
    ),
    # numbers lie in intervals, and points on curves; files, images and bytes are somewhere, or are stored there
    r"\b(?:lies?|lay)\b(?! (?:in \[|in \(|between|within|outside|on a|above|below|beyond|at [-−\d]))": "is, is stored",
    r"\b(?:laid|lays?|laying) (?:over|on|under|in)\b": "overrides, is applied to",
    r"\bmend(?:s|ed|ing|able)?\b": "fix",
    # "is no longer", "is no larger than" and "there is no file" are English
    r"(?<!here )\b(?:is|are|was|were) no (?!(?:longer|more|less|fewer|other|such|one|use|need|reason|way|accident"
    r"|better|worse|different|further|\w+er(?: \w+)? than)\b)": "is not a",
    r"\bknows? no\b": "does not support, has no",
    r"\bin vain\b": "without effect",
    r"\b(?:what|which) (?:is|was|were) asked\b|\b(?:the|an?|as) asked\b|\basked of\b": "requested",
    r"\b(?:an|no) own\b": "its own, none of its own",
    r"\b(?:the|its|their|a|of) reach\b": "range",
    r"\bthe lead\b|\blead (?:axes|axis|dimensions?)\b": "leading",
    r"\bstrangers?\b": "someone else, an unknown source",
    r"\btalks\b|\bspeaks?\b|\bto talk\b": "prints, reports",
    r"\b(?:can|could|to) be had\b": "is available",
    r"\bbe it\b": "whether",
    r"\b(?:is|are) wanted\b": "is needed, is requested",
    r"\btrainings\b": "training runs",
    r"\b(?:hereby|hitherto|lest|naught|nought|thence|thereof|therein|therewith|whence|whereof|wherein)\b": "this, that",
}
"""Pattern -> what to say instead. A space in a pattern is a space or the end of a line."""


_COMPILED = [
    [(re.compile(pattern.replace(" ", "[ \n]"), re.IGNORECASE), advice) for pattern, advice in table.items()]
    for table in (SPELLINGS, PHRASES)
]


def _blank(text: str) -> str:
    return re.sub(r"\S", "\0", text)


def _only(pieces: Iterable[tuple[int, str]], source: str) -> str:
    """The source with NUL characters for everything but pieces of it, given as (offset, text of the same length)."""
    parts, done = [], 0
    for begin, text in pieces:
        parts += [_blank(source[done:begin]), text]
        done = begin + len(text)
    return "".join([*parts, _blank(source[done:])])


def _python_prose(source: str) -> Iterator[tuple[int, str]]:
    starts = [0, *accumulate(len(line) + 1 for line in source.split("\n"))]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if kind == "COMMENT":
            yield begin, " " + source[begin + 1 : end]
        elif kind == "FSTRING_MIDDLE":
            yield begin, source[begin:end]
        elif kind == "STRING":
            prefix, quote = re.match(r"(\w*)(\"\"\"|'''|\"|')", source[begin:end]).groups()  # type: ignore[union-attr]
            text = source[begin + len(prefix) + len(quote) : end - len(quote)]
            if "f" in prefix.lower():
                text = re.sub(r"(?<!\{)\{[^{}]+\}", lambda code: _blank(code[0]), text)
            # without quotes, strings that follow one another read as one
            yield begin, " " * len(prefix + quote) + text + " " * len(quote)


def _c_prose(source: str) -> Iterator[tuple[int, str]]:
    for comment in re.finditer(r"/\*.*?\*/|//[^\n]*", source, re.DOTALL):
        yield comment.start(), comment[0]


def find_words(source: str, suffix: str = ".md") -> list[tuple[int, str, str]]:
    """(line, what was found, advice) of every word and phrase, in the order of the lines.

    Args:
        source: the content of a file. suffix: of its name; all but `.py`, `.c`, `.h` and `.js` is prose as a whole.
    """
    reader = {".py": _python_prose, ".c": _c_prose, ".h": _c_prose, ".js": _c_prose}.get(suffix)
    prose = source if reader is None else _only(reader(source), source)
    flat = re.sub(r" ?\n ?", "\n", re.sub(r"[ \t]+", " ", prose))
    spellings, phrases = _COMPILED
    found = [
        (source.count("\n", 0, begin) + 1, source[begin:end], advice)
        for pattern, advice in spellings
        for begin, end in (_whole_word(source, match) for match in pattern.finditer(source))
        if not _is_old_name(source, prose, begin, end)
    ]
    found += [
        (flat.count("\n", 0, match.start()) + 1, match[0].replace("\n", " ").strip(), advice)
        for pattern, advice in phrases
        for match in pattern.finditer(flat)
    ]
    return sorted(found)


def _whole_word(source: str, match: re.Match[str]) -> tuple[int, int]:
    begin, end = match.span()
    while begin and re.match(r"\w", source[begin - 1]):
        begin -= 1
    while end < len(source) and re.match(r"\w", source[end]):
        end += 1
    return begin, end


def _is_old_name(source: str, prose: str, begin: int, end: int) -> bool:
    quoted = source[begin - 1 : begin] in ("'", '"', "`", "=") or source[end : end + 1] == ":"
    return source[begin:end] in OLD_NAMES and (quoted or prose[begin] == "\0")


def find_in_file(path: Path) -> Iterator[str]:
    """The lines to print about a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        parts = {"": (source, path.suffix)}
    else:
        suffixes = {"markdown": ".md", "code": ".py"}
        cells = enumerate(json.loads(source)["cells"])
        parts = {f"cell {i}:": ("".join(cell["source"]), suffixes[cell["cell_type"]]) for i, cell in cells}
    for place, (text, suffix) in parts.items():
        for line, word, advice in find_words(text, suffix):
            yield f"{path}:{place}{line}: {word!r} (say {advice})"


def main(arguments: list[str]) -> int:
    paths = [Path(name) for name in arguments] or sorted({path for place in PLACES for path in Path().glob(place)})
    paths = [path for path in paths if path.resolve() != Path(__file__).resolve()]  # it has to name them
    found = [line for path in paths for line in find_in_file(path)]
    print("\n".join(found or [f"{len(paths)} files: plain words"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
