"""The lint of words: what it must find, and the plain English that it must let pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.plain_words import OLD_NAMES, PHRASES, PLACES, SPELLINGS, find_in_file, find_words, main

ROOT = Path(__file__).parent.parent

BAD = {
    "the colour of a neighbour's behaviour": ["colour", "neighbour", "behaviour"],
    "is_standardised, normalisation, Optimiser": ["is_standardised", "normalisation", "Optimiser"],
    "analysed, centred, learnt, unlearnt": ["analysed", "centred", "learnt", "unlearnt"],
    "labelled, modelling, greyscale": ["labelled", "modelling", "greyscale"],
    "a catalogue of artefacts under this licence": ["catalogue", "artefacts", "licence"],
    "Of masks, the mean IoU as well.": ["Of"],
    "which layer; of a packed net, which node": ["; of a packed net,"],
    "after so many steps": ["so many"],
    "The rest as `evaluate`, which see.": ["which see"],
    "a wrong mode is told before, as it is said": ["told", "said"],
    "its accuracy says nothing; the file says of it": ["says of"],
    "--seed stands twice; what stands in the file": ["stands", "stands"],
    "values that meet weights": ["meet"],
    "images lie in memory, where the data lay": ["lie", "lay"],
    "flags are laid over the recipe": ["laid over"],
    "errors that a user can mend": ["mend"],
    "it is no .1bit file, and these are no images": ["is no", "are no"],
    "knows no weight decay, in vain": ["knows no", "in vain"],
    "true need not be said": ["said"],
    "what was asked of it": ["what was asked"],
    "data sets without an own test split": ["an own"],
    "rank 0 speaks": ["speaks"],
    "whatever it costs, be it one byte": ["be it"],
}

GOOD = """
None stands for real weights, and so it stands out; the stand-in stands alone.
There is no data set; a file is no longer than 10 bytes and is no worse; if there are no files, it is no use.
It tells the user, and the two can be told apart. That said, of course, most of the time, it is promised.
tau lies in [0, 1], probabilities lie between 0 and 1; the layout of layers is laid out in NHWC.
A batch need not be divisible. It meets the requirements; we recommend an amendment; so many that they do not fit.
Four hours, contours, precise, otherwise, raise, noise, exercise, bitwise, analysis, analyses, promised, likewise.
Cancelled, parallel, controlled, propelled, fulfilled, called, filled; optimistic, minimal, organism, specialist.
Normalize, standardize, color, center, learned, labeled, gray, neighbor, behavior, license, catalog, meter, parameter.
"""


@pytest.mark.parametrize("text", BAD)
def test_odd_words_are_found(text: str) -> None:
    assert sorted(word for _, word, _ in find_words(text)) == sorted(BAD[text])


def test_plain_english_passes() -> None:
    assert find_words(GOOD) == []


def test_every_advice_is_plain_itself() -> None:
    assert [find_words(advice) for advice in (*SPELLINGS.values(), *PHRASES.values()) if find_words(advice)] == []


def test_in_code_phrases_are_looked_for_in_comments_and_strings_alone() -> None:
    code = '''"""Is no
    mask."""
told = lie = "is no mask" + f"{told} is {said}"  # so
# many of them
said = asked["x"] is no  # fine
'''
    code = code.replace("is no  #", "  #")
    assert [(line, word) for line, word, _ in find_words(code, ".py")] == [(1, "Is no"), (3, "is no"), (3, "so many")]
    assert find_words("int told; /* plain */ int lie;", ".c") == []
    assert [line for line, _, _ in find_words("int a;\n/* one\n   is told */", ".h")] == [3]


def test_spellings_are_looked_for_in_names_too() -> None:
    assert [(line, word) for line, word, _ in find_words("x = 1\nself.neighbours = x\n", ".py")] == [(2, "neighbours")]


def test_old_names_are_allowed_in_code_and_in_quotes_alone() -> None:
    assert "standardise" in OLD_NAMES
    assert find_words("if coding == 'standardise':\n    standardise()\n", ".py") == []
    assert find_words("the old name `standardise` still works") == []
    assert find_words("Args:\n    centre: (O,) float32\n") == []
    assert len(find_words('"""To standardise images."""\n', ".py")) == 1
    assert len(find_words("def standardised(): ...\n", ".py")) == 1


def test_the_command_prints_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("plain\n\nthe colour\n", encoding="utf-8")
    book = tmp_path / "book.ipynb"
    cells = [{"cell_type": "code", "source": ["told = 1"]}, {"cell_type": "markdown", "source": ["a\n", "is told"]}]
    book.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert main([str(page), str(book)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{page}:3: 'colour' (say …or…)"
    assert second.startswith(f"{book}:cell 1:2: 'told' (say ")
    page.write_text("plain\n", encoding="utf-8")
    assert main([str(page)]) == 0


def test_every_document_is_looked_at_and_plain() -> None:
    documents = {*ROOT.glob("*.md"), *(ROOT / "src").rglob("*.md"), *(ROOT / "docs").rglob("*.md")}
    assert {"CHANGELOG.md", "MNIST_SAMPLE_LICENSE.md", "results.md"} <= {path.name for path in documents}
    assert documents <= {path for place in PLACES for path in ROOT.glob(place)}
    assert [line for path in sorted(documents) for line in find_in_file(path)] == []
