"""The study of language models trains every method, and tells what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from onebit.quantizers import Xnor
from support.language_models import NIGHTLY, make_model
from tools import language_study

pytestmark = [*NIGHTLY, pytest.mark.filterwarnings("ignore:the model has no binary layer")]


def test_every_method_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.arange(64 * 16).reshape(64, 16) % 13
    example = {"read_rows": lambda _: (tokens, tokens[:4]), "make_llama": lambda width, seed: make_model()}
    monkeypatch.setattr(language_study.runpy, "run_path", lambda _: example)
    for name, value in {"STEPS": 4, "FEWER_STEPS": 2, "BLOCKS": 2, "RESULTS": tmp_path / "all.json"}.items():
        monkeypatch.setattr(language_study, name, value)
    home = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["study", str(home), "--widths", "128", "--seeds", "0"])
    language_study.main()
    written = {path: path.stat().st_mtime_ns for path in home.glob("*.json")}
    assert len(written) == len(language_study.METHODS)
    language_study.main()
    assert written == {path: path.stat().st_mtime_ns for path in home.glob("*.json")}
    monkeypatch.setattr(sys, "argv", ["study", str(home), "--publish"])
    language_study.main()
    runs = json.loads((tmp_path / "all.json").read_text())
    assert len([*language_study.table(runs)]) == 2 + len(runs)
    assert all(abs(run["loss"] - run["file_loss"]) < 0.05 for run in runs)
    sizes = {run["method"]: run["bytes"] for run in runs}
    assert sizes["binary embedding"] < sizes["real embedding"] < sizes["float"]


def test_blocks_harden_one_after_the_other() -> None:
    quantizers = [language_study.LayerByLayer(Xnor(), until=0.5) for _ in range(4)]
    for block, quantizer in enumerate(quantizers):
        quantizer.block = block
    for progress, shares in ((0.0, [1, 0, 0, 0]), (0.3, [1, 1, 1, 0]), (0.5, [1, 1, 1, 1])):
        for quantizer in quantizers:
            quantizer.set_progress(progress)
        assert [float(quantizer.share) for quantizer in quantizers] == shares
