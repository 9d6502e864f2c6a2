"""The table of the guide is that of the measured runs."""

from __future__ import annotations

import json
from pathlib import Path

from tools import language_study

ROOT = Path(__file__).parents[2]


def test_the_guide_has_the_table_of_the_results() -> None:
    runs = json.loads((ROOT / language_study.RESULTS).read_text(encoding="utf-8"))
    assert language_study.table(runs) in (ROOT / "docs" / "language-models.md").read_text(encoding="utf-8")


def test_a_row_has_the_size_and_the_perplexity_of_each_seed(tmp_path: Path) -> None:
    runs = [
        {
            "method": "xnor",
            "width": 256,
            "seed": seed,
            "binary": 128_000_000,
            "real": 32_000_000,
            "curve": [[1, 2], [2, 1]],
        }
        for seed in (0, 1)
    ]
    assert language_study.table(runs).endswith("| 256 | xnor | 52.00 | 2.7 / 2.7 |")
    language_study.draw(runs, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 1000
