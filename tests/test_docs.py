"""What the documents promise: links resolve, commands parse, Python compiles, numbers are the measured ones."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch

import onebit
from benchmarks import BENCHMARKS
from onebit.__main__ import main
from onebit.data import DATASETS, LoadedFiles
from onebit.data.mnist import MNIST_SAMPLE
from onebit.quantizers import WEIGHT_QUANTIZERS
from support.command_line import Parsed, check_command
from tools.pictures import table_of
from tools.site import ROOMS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
NAVIGATION = ROOT / "zensical.toml"
TUTORIAL = ROOT / "docs" / "tutorial.md"
GUIDES = ("tutorial", "own-models", "own-data", "train", "methods", "pack-and-run", "deploy", "segmentation")
GUIDES += ("language-models", "continual", "gpu", "scaling", "own-quantizers", "coming-from")
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
    """Relative links and images that do not resolve. `folder` is that of the document.

    `make docs` makes the pages of reference/ and checks links to them.
    """
    broken = []
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for found in LINK.finditer(prose):
        target = found[1] or found[2]
        if re.match(r"[a-z]+:|reference/", target):
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
def test_links_resolve(path: Path) -> None:
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_links_of_notebooks_resolve(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "](../docs/" in text
    assert broken_links(text, path.parent) == []


def test_the_navigation_has_every_page_and_each_exists() -> None:
    shown = set(re.findall(r'"([\w/-]+\.md)"', NAVIGATION.read_text(encoding="utf-8")))
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    made = {f"{path.stem.lower()}.md" for path in ROOT.glob("*.md")}
    assert written <= shown
    kept = {name for name in shown - made if not name.startswith("reference/")}
    assert [name for name in kept if not (ROOT / "docs" / name).exists()] == []
    assert {name for name in shown if "/api/" in name} == {f"reference/api/{room}.md" for room in ("onebit", *ROOMS)}


@pytest.mark.parametrize(
    ("pages", "most"),
    [
        (["README.md"], 900),
        ([f"docs/{name}.md" for name in GUIDES], 12_000),
        (["docs/notes.md"], 1_500),
    ],
    ids=["readme", "guides", "notes"],
)
def test_pages_stay_short(pages: list[str], most: int) -> None:
    assert sum(len((ROOT / page).read_text(encoding="utf-8").split()) for page in pages) <= most


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


def test_a_broken_link_and_a_wrong_command_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.md").write_text("# A heading\n")
    text = (
        "# Here\n[a](there.md) ![b](there.png) [c](there.md#a-heading) [d](there.md#gone) [e](#here) [f](#there) "
        '<img src="no.png"> [g](https://example.org) `[h](code.md)`\n```\n[i](fenced.md)\n```\n'
    )
    assert broken_links(text, tmp_path) == ["there.png", "there.md#gone", "#there", "no.png"]
    lines = "$ A=1 onebit pack runs/x | head -1   # a remark\nonebit train mnist-fats \\\n  -o 'a b'\nls onebit\n"
    found = list(commands(f"```\n{lines}```\n"))
    assert found == [["pack", "runs/x"], ["train", "mnist-fats", "-o", "a b"]]
    for arguments in found:
        with pytest.raises(AssertionError):
            check_command(arguments, monkeypatch, capsys)
    table = "| `onebit pack RUN` | as `onebit verify`, or `onebit train RECIPE` |\n\nMore: `onebit pack`.\n"
    assert list(commands_of_tables(f"| a | b |\n|---|---|\n{table}")) == [["pack", "RUN"]]


def commands_of_tables(text: str) -> Iterator[list[str]]:
    """Arguments of every `onebit …` in a table, but for verbs with options alone, and `train` of a placeholder."""
    rows = "\n".join(line for line in FENCE.sub("", text).splitlines() if line.startswith("|"))
    for line in re.findall(r"`(onebit \w+ [^-`][^`]*)`", rows):
        if not re.match(r"onebit train.*(…|RECIPE|NAME|\bruns/|\bresults/)", line):
            yield from commands(f"```\n{line}\n```\n")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text(encoding="utf-8")
    for arguments in [*commands(text), *commands_of_tables(text)]:
        check_command(arguments, monkeypatch, capsys)


def test_benchmarks_and_scripts_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of figures: options of benchmarks, each of which is named somewhere, and files."""
    run_benchmark = importlib.import_module("benchmarks.__main__").main

    def stop(self: ArgumentParser, argv: list[str]) -> Namespace:
        parse(self, argv)
        raise Parsed

    parse = ArgumentParser.parse_args
    monkeypatch.setattr(ArgumentParser, "parse_args", stop)
    named = set()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for sentence, line in re.findall(
            r"`python -m benchmarks ([^`]+)`|^(?:\$ )?python -m benchmarks (.+)$", text, re.MULTILINE
        ):
            arguments = shlex.split(sentence or line, comments=True)
            if arguments[0] != "NAME":
                named.add(arguments[0])
                with pytest.raises(Parsed):
                    run_benchmark(arguments)
        for script in re.findall(r"python ((?:tools|examples)/\S+\.py)", text):
            assert (ROOT / script).exists(), f"{path.name}: {script}"
    assert named == set(BENCHMARKS)


# -------------------------------------------------------------------------------------------------------------- Python
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_and_sessions_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# -------------------------------------------------------------------------------------------------------------- README
OTHER_PROGRAMS = {"python3 -m venv", "source .venv/bin/activate", "pip install"}
"""Console lines that set up an environment: this test runs in one."""


def small_mnist(**arguments: Any) -> LoadedFiles:
    """600 training and 200 test digits of the sample that ships."""
    files = MNIST_SAMPLE.read(**arguments)
    return files._replace(train=files.train[:600], test=files.test[:200])


def test_everything_in_the_readme_works_as_typed_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one folder, as a reader would; MNIST is small here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "mnist", replace(MNIST_SAMPLE, name="mnist", read=small_mnist, validation=100))
    verbs, others = [], set()
    for found in FENCE.finditer((ROOT / "README.md").read_text(encoding="utf-8")):
        if found[1] == "python":
            exec(compile(found[2], "README.md", "exec"), {})
            continue
        assert found[1] == "console", f"a block of {found[1] or 'nothing'} is not tested"
        for line in found[2].splitlines():
            assert line.startswith("$ "), line
            program, *words = shlex.split(line[2:], comments=True)
            if program == "onebit":
                verbs.append(words[0])
                assert main(words) == 0, f"{line}: {capsys.readouterr().err}"
            elif (program, words[0]) == ("python", "-c"):
                exec(compile(words[1], "README.md", "exec"), {})
            else:
                others.add(" ".join([program, *words]))
    assert {"train", "verify", "pack", "predict", "report"} <= set(verbs)
    assert all(any(line.startswith(known) for known in OTHER_PROGRAMS) for line in others), others
    assert main(["verify", "mnist.1bit", "--source", "runs/mnist-fast"]) == 0, "the certified net was overwritten"
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    left = {path.name for path in tmp_path.iterdir()}
    assert {"runs", "mnist.1bit"} <= left
    assert [name for name in left if not any(fnmatch(name, pattern) for pattern in ignored)] == []
    assert {"*.1bit", "*.pth", "*.safetensors", "runs"} <= ignored


def test_the_page_on_own_models_is_one_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks run from top to bottom, and what it says of their results is true."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "own-models.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in blocks(text, "python"):
        exec(compile(block, "own-models.md", "exec"), names)
    shown = capsys.readouterr().out
    assert (tmp_path / "digits.1bit").exists()
    assert (names["logits"].argmax(axis=1) == names["test_labels"].numpy()).mean() > 0.6
    assert (names["labels_found"] == names["test_labels"].numpy()).mean() > 0.6
    assert "compared with the model on the same inputs, not with the training pipeline" in shown
    assert "; compared with the training pipeline: " in shown


def test_the_page_on_own_quantizers_works_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(DATASETS, "mnist", replace(MNIST_SAMPLE, name="mnist", read=small_mnist, validation=100))
    monkeypatch.setattr(WEIGHT_QUANTIZERS, "data", {**WEIGHT_QUANTIZERS.data})
    text = (ROOT / "docs" / "own-quantizers.md").read_text(encoding="utf-8")
    code, use = blocks(text, "python")
    Path("quant.py").write_text(code, encoding="utf-8")
    names: dict[str, Any] = {"torch": torch}
    exec(compile(use, "own-quantizers.md", "exec"), names)
    monkeypatch.delitem(sys.modules, "quant")
    quantizer = names["TanhSign"](steepness=3)
    latent = torch.tensor([[-2.0, -0.1, 0.0, 0.5]], requires_grad=True)
    quantizer(latent).sum().backward()
    assert torch.equal(quantizer(latent), quantizer.decompose(latent).dense())
    assert torch.allclose(latent.grad, 3 * (1 - torch.tanh(3 * latent) ** 2))
    assert {type(part) for part in names["model"].modules()} > {names["TanhSign"]}
    packed = onebit.pack(names["model"].eval(), torch.randn(2, 8), data=torch.randn(20, 8))
    assert packed.nodes
    for arguments in commands(text):
        assert main(arguments) == 0, capsys.readouterr().err
    assert Path("tanh.1bit").exists()


def test_the_figures_of_the_readme_are_the_measured_ones() -> None:
    readme, home = ((ROOT / path).read_text(encoding="utf-8") for path in ("README.md", "docs/index.md"))
    ratios = [float(row["× torch"]) for row in table_of("performance.md", "net | batch")]
    for page in (readme, home):
        assert f"{min(ratios):g} to {max(ratios):g} " in page
    for recipe, shown in {"mnist-fast": "98.69 ± 0.08 %", "cifar10-binaryconnect-half": "90.20 %"}.items():
        test = json.loads((ROOT / "docs" / "results" / recipe / "result.json").read_text(encoding="utf-8"))["test"]
        accuracies = [100 * correct / test["binary"]["count"] for correct in test["binary"]["correct"]]
        assert shown.startswith(f"{mean(accuracies):.2f}")
        assert len(accuracies) == 1 or f"± {stdev(accuracies):.2f} %" in shown
        assert shown in readme
    share = dict(list(row.values())[:2] for row in table_of("performance.md", "784–3×2048–10, batch 100"))
    assert f"{share['`binaryconnect`']} of its time; {share['`bnn`']} with signs" in readme


# ------------------------------------------------------------------------------------------------------------ tutorial
def test_the_numbers_of_the_tutorial_are_the_measured_ones() -> None:
    measured = (ROOT / "docs" / "tutorial" / "numbers.txt").read_text(encoding="utf-8")
    shown = re.findall(r"\d+\.\d+ ± \d+\.\d+", TUTORIAL.read_text(encoding="utf-8"))
    assert len(shown) >= 10
    assert [number for number in shown if number not in measured] == []


# -------------------------------------------------------------------------------------------------------- architecture
def test_the_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("| to find |")[2].partition("\n\n")[0]
    names = re.findall(r"`([\w/]+(?:/|\.\w+))`", table.partition("| benchmarks |")[0])
    assert len(names) > 20
    assert [name for name in names if not (ROOT / "src" / "onebit" / name).exists()] == []
