"""Flags of a verb and of a recipe: spellings, and what is offered for one that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import Onebit


@pytest.mark.parametrize("flag", ["--model", "--model.name", "--batch-size", "--model.weight_options.temperature"])
def test_flags_of_a_recipe_are_known_in_all_their_forms(onebit: Onebit, flag: str) -> None:
    assert "unknown option" not in onebit("train", "digits-smoke", flag, "1", "--print_config", "--json").err


def test_a_recipe_may_follow_the_flags(onebit: Onebit) -> None:
    one, other = (
        onebit("train", *words, "--print-config")
        for words in (["digits-smoke", "--loss", "hinge"], ["--loss", "hinge", "digits-smoke"])
    )
    assert (one.status, one.out) == (0, other.out)


def test_the_recipe_is_printed_in_both_spellings(onebit: Onebit) -> None:
    one, other = (onebit("train", "digits-smoke", flag) for flag in ("--print-config", "--print_config"))
    assert other.status == 0
    assert other.out == one.out
    assert "name: digits-smoke" in one.out


def test_dashes_and_underscores_in_flags_are_equivalent(onebit: Onebit) -> None:
    flags = (["--input-shape", "[1, 28, 28]"], ["--input_shape=[1, 28, 28]"])
    spelled = [onebit("summary", "--method", "bnn", "--model", "mlp", *flag) for flag in flags]
    assert [done.status for done in spelled] == [0, 0], spelled[0].err
    assert spelled[0].out == spelled[1].out


@pytest.mark.parametrize(
    "words",
    [
        ["report", "", "-o", "page"],
        ["report", ".", "-o", ""],
        ["verify", ""],
        ["verify", "mnist-mlp", "--source", ""],
        ["verify", "mnist-mlp", "--source="],
        ["inspect", ""],
        ["inspect", "mnist-mlp", "--plot", ""],
        ["pack", "", "-o", "net.1bit"],
        ["pack", ".", "-o", ""],
        ["export", "", "--to", "c", "-o", "net"],
        ["evaluate", ""],
        ["evaluate", ".", "--data", ""],
        ["data", "mnist", "--data", ""],
        ["predict", "", "a.png"],
        ["predict", "mnist-mlp", ""],
        ["predict", "mnist-mlp", "a.png", ""],
        ["predict", "mnist-mlp", "a.png", "--masks", ""],
        ["summary", ""],
        ["bench", ""],
        ["train", ""],
        ["train", "digits-smoke", "--out", ""],
        ["train", "digits-smoke", "--data="],
        ["train", "digits-smoke", "--method", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """What a shell makes of "$RUN" where nothing set it."""
    monkeypatch.chdir(tmp_path)
    refused = onebit(*words)
    assert (refused.status, refused.out) == (2, "")
    assert refused.line
