"""docs/methods.md and the tool that fills its tables."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from onebit.recipe import methods

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "results_methods.py"))


def test_every_method_is_described() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    described, tables = text.split("## One protocol", maxsplit=1)
    assert [name for name in methods() if f"| `{name}` |" not in described] == []
    for name in TOOL["PROTOCOLS"]:
        assert f"<!-- {name} -->\n" in tables
    assert tables.count("<!-- end -->") == len(TOOL["PROTOCOLS"])


def finished_run(folder: Path, accuracies: list[float]) -> None:
    modes = {"binary": {"accuracies": accuracies}, "latent": {"accuracies": [0.5] * len(accuracies)}}
    seeds = list(range(len(accuracies)))
    for seed in seeds:
        run = folder / f"seed-{seed}"
        run.mkdir(parents=True)
        rows = [{"flip_ratio": ratio, "seconds": 2.0} for ratio in (0.25, 0.01)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run / "recipe.yaml").write_text("model: {weight_quantizer: sign, input_quantizer: null}")
    (folder / "seeds.json").write_text(json.dumps({"seeds": seeds, "test": modes}))


@pytest.mark.parametrize("accuracies", [[0.96, 0.98, 0.97], [0.97, 0.98]])
def test_a_row_holds_what_was_measured_once_all_seeds_are_done(tmp_path: Path, accuracies: list[float]) -> None:
    protocol: Any = TOOL["PROTOCOLS"]["mlp"]
    finished_run(tmp_path / "bop", accuracies)
    head, _, *rows = TOOL["table"](protocol, {"bop": tmp_path / "bop", "ste": tmp_path / "ste"}).splitlines()
    assert "not yet trained" in rows[1]
    if len(accuracies) < 3:
        assert "not yet trained" in rows[0]
    else:
        assert rows[0] == "| `bop` | 1 / 32 | **97.00 ± 1.00 %** | 50.00 ± 0.00 % | 25.00 → 1.000 % | 2.0 |"
        assert head.count("|") == rows[0].count("|") == rows[1].count("|")
