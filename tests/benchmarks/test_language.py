"""The benchmark of language models: llama.cpp, and packed layers in transformers, have the same probabilities."""

from __future__ import annotations

import pytest

from benchmarks import language

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not language.FOLDER.is_dir(), reason="transformers is not installed: make build/language"),
]


def test_a_small_net_is_measured() -> None:
    """`measure` raises where outputs differ."""
    sizes = {"width": 256, "inner": 384, "layers": 2, "prompt": 8, "tokens": 3}
    rows = language.measure(**sizes, rounds=1, threads=1)["rows"]
    assert [row["net"] for row in rows] == ["llama.cpp", "onebit, group 128", "onebit, a scale per output"]
    assert all(row["prompt_per_s"] > 0 and row["generated_per_s"] > 0 for row in rows)
