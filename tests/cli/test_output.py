"""What the command line says while something goes on."""

from __future__ import annotations

import pytest

from onebit import progress
from onebit.cli.output import Progress, download_progress


def test_lines_of_progress_have_the_rate_since_the_first_update(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([1000.0, 1000.0, 1001.0, 1002.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = Progress("run", "steps", every=10)  # made long before the first step: data are read, a net is compiled
    for done in (1, 10, 20):
        bar.update(done, 100)
    assert capsys.readouterr().err.splitlines() == ["steps 10 of 100", "steps 20 of 100  19 steps/s"]


def test_loading_says_once_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with download_progress() as told:
        for done in (1, 2):
            told("decoding images of photos", done, 2)
    assert capsys.readouterr().err == "decoding images of photos\n"
