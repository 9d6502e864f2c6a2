"""What the documents promise: links lead somewhere, commands parse, Python compiles, numbers are the measured ones."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from onebit.__main__ import VERBS, main
from onebit.cli.parsing import Parser

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"
FENCE = re.compile(r"^ {0,3}```([\w+-]*)[^\n]*\n(.*?)^ {0,3}```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|<(?:img|a)\b[^>]*\b(?:src|href)=\"([^\"]+)\"")


def blocks(text: str, *languages: str) -> Iterator[str]:
    """Contents of the fenced blocks in one of the languages."""
    for found in FENCE.finditer(text):
        if found[1] in languages:
            yield found[2]


# --------------------------------------------------------------------------------------------------------------- links
def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links and images that lead nowhere. `folder` is that of the document."""
    broken = []
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for found in LINK.finditer(prose):
        target = found[1] or found[2]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name if name else None
        if path is not None and not path.exists():
            broken.append(target)
        elif anchor and (path is None or path.suffix == ".md"):
            page = text if path is None else path.read_text(encoding="utf-8")
            if anchor not in map(slug, re.findall(r"^#+ (.*)$", FENCE.sub("", page), re.MULTILINE)):
                broken.append(target)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading\n")
    text = (
        "# Here\n[a](there.md) ![b](there.png) [c](there.md#a-heading) [d](there.md#gone) [e](#here) [f](#there) "
        '<img src="no.png"> [g](https://example.org) `[h](code.md)`\n```\n[i](fenced.md)\n```\n'
    )
    assert broken_links(text, tmp_path) == ["there.png", "there.md#gone", "#there", "no.png"]


# ------------------------------------------------------------------------------------------------------------ commands
class Parsed(Exception):
    """The arguments were understood; stops a verb before it does anything."""


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of every `onebit …` line in the fenced blocks, `$ ` and settings before it dropped."""
    for block in blocks(text, "", "sh", "bash", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ +)?(?:\w+=\S* +)*onebit +(.*)", line)
            if found:
                lexer = shlex.shlex(found[1], posix=True, punctuation_chars="|&;<>")
                lexer.whitespace_split, lexer.commenters = True, "#"
                words = list(lexer)
                end = next((i for i, word in enumerate(words) if set(word) <= set("|&;<>")), len(words))
                yield words[:end]


def check_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Have the verb's own parser read a command line.

    Raises:
        AssertionError: an unknown verb, or arguments that the verb refuses.
    """
    parse = Parser.parse

    def stop(self: Parser, argv: list[str]) -> Namespace:
        parse(self, argv)
        raise Parsed

    verb, *rest = arguments
    assert verb in VERBS or verb in ("--help", "--version"), f"no such verb: {verb}"
    if verb == "train":
        rest.append("--print-config")  # reads the recipe and every flag, and leaves
    with monkeypatch.context() as patch:
        patch.setattr(Parser, "parse", stop)
        try:
            status = main([verb, *rest])
        except Parsed:
            return
    assert status == 0, f"onebit {shlex.join(arguments)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_understood(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in commands(path.read_text(encoding="utf-8")):
        check_command(arguments, monkeypatch, capsys)


@pytest.mark.parametrize(
    "line",
    [
        "onebit trane mnist-fast",
        "onebit train mnist-fats",
        "onebit train mnist-fast --optimiser.lr 0.1",
        "onebit train mnist-fast --epochs many",
        "onebit pack runs/x",
        "onebit evaluate runs/x --weight latent",
        "ONEBIT_DATA=data onebit evaluate \\\n  --split tset runs/x",
    ],
)
def test_a_wrong_command_is_found(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [arguments] = commands(f"```sh\n{line}\n```\n")
    with pytest.raises(AssertionError):
        check_command(arguments, monkeypatch, capsys)


def test_commands_are_cut_out_of_their_lines() -> None:
    lines = "$ A=1 onebit list recipes | head -1   # a remark\nonebit pack r \\\n  -o 'a b.1bit' && ls\nls onebit\n"
    assert list(commands(f"```\n{lines}```\n")) == [["list", "recipes"], ["pack", "r", "-o", "a b.1bit"]]


# -------------------------------------------------------------------------------------------------------------- Python
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_compiles_and_sessions_answer_as_shown(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain blocks are compiled; sessions with >>> are run from top to bottom."""
    monkeypatch.chdir(tmp_path)
    sessions = []
    for block in blocks(path.read_text(encoding="utf-8"), "python", "py"):
        if block.lstrip().startswith(">>>"):
            sessions.append(block)
        else:
            compile(block, path.name, "exec")
    test = doctest.DocTestParser().get_doctest("\n".join(sessions), {}, path.name, str(path), 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


# ------------------------------------------------------------------------------------------------------------ tutorial
def test_the_numbers_of_the_tutorial_are_the_measured_ones() -> None:
    measured = (ROOT / "docs" / "tutorial" / "numbers.txt").read_text(encoding="utf-8")
    shown = re.findall(r"\d+\.\d+ ± \d+\.\d+", TUTORIAL.read_text(encoding="utf-8"))
    assert len(shown) >= 10
    assert [number for number in shown if number not in measured] == []


def test_the_pictures_of_the_tutorial_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("tutorial_pictures")
    few = ["--dataset", "mnist-sample", "--epochs", "1", "--seeds", "1", "--draws", "2"]
    tool.main([*few, "--model.widths", "[784,32,10]", "--out", str(tmp_path)])
    kept = ROOT / "docs" / "tutorial"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in kept.iterdir()}
    assert all(path.stat().st_size < 150_000 for path in kept.glob("*.png"))
    numbers = (tmp_path / "numbers.txt").read_text(encoding="utf-8")
    assert numbers in capsys.readouterr().out
    assert "stochastic     ensemble:2  reestimate" in numbers
