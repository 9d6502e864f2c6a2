"""`python -m benchmarks startup` runs every command and reports each."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from covering import covering

from benchmarks.__main__ import main
from benchmarks.startup import example_net
from onebit.runtime import run


@pytest.mark.parametrize("really", covering([False, True], heavy={True}))
def test_every_command_is_timed(
    really: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daily without the processes, which all import torch or the package anew."""
    if not really:
        ended = subprocess.CompletedProcess([], 0)
        monkeypatch.setattr("benchmarks.startup.subprocess.run", lambda *_, **__: ended)
    assert main(["startup", "--rounds", "1", "--json"]) == 0
    rows = {row["command"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {"onebit --help", "onebit predict NET IMAGE"} <= rows.keys()
    assert all(0 < row["fastest_seconds"] <= row["seconds"] for row in rows.values())


def test_the_example_net_tells_images_apart() -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 1, 28, 28), dtype=np.uint8)
    logits = run(example_net(), images)
    assert logits.shape == (2, 10)
    assert not np.array_equal(logits[0], logits[1])


def test_no_rounds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["startup", "--rounds", "0"]) == 2
    assert "rounds must be 1 or more" in capsys.readouterr().err
