"""docs/methods.md, docs/results.md and the tools that fill their tables."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import training_step
from onebit.recipe import methods, read_settings, recipe_path

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "results_methods.py"))


def test_every_method_is_described() -> None:
    described, tables = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("methods.md", "results.md"))
    assert [name for name in methods() if f"| `{name}` |" not in described] == []
    for name in TOOL["PROTOCOLS"]:
        assert f"<!-- {name} -->\n" in tables
    assert tables.count("<!-- end -->") == len(TOOL["PROTOCOLS"])
    for protocol in TOOL["PROTOCOLS"].values():
        rows = set(re.findall(r"^\| `([\w-]+)` \| \d+ / \d+ \|", tables, re.MULTILINE))
        assert rows >= set(protocol.methods or methods())


def finished_run(folder: Path, accuracies: list[float]) -> None:
    modes = {"binary": {"accuracies": accuracies}, "latent": {"accuracies": [0.5] * len(accuracies)}}
    seeds = list(range(len(accuracies)))
    for seed in seeds:
        run = folder / f"seed-{seed}"
        run.mkdir(parents=True)
        rows = [{"flip_ratio": ratio} for ratio in (0.25, 0.01)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = "model: {weight_quantizer: sign, input_quantizer: null, activation: relu}"
        (run / "recipe.yaml").write_text(f"{model}\noptimizer: {{name: bop}}\n")
    (folder / "seeds.json").write_text(json.dumps({"seeds": seeds, "test": modes}))


@pytest.mark.parametrize("accuracies", [[0.96, 0.98, 0.97], [0.97, 0.98]])
def test_a_row_holds_what_was_measured_once_all_seeds_are_done(tmp_path: Path, accuracies: list[float]) -> None:
    protocol: Any = TOOL["PROTOCOLS"]["mlp"]
    finished_run(tmp_path / "bop", accuracies)
    folders = {"bop": tmp_path / "bop", "ste": tmp_path / "ste"}
    head, _, *rows = TOOL["table"](protocol, folders, {"bop": 1.0625}).splitlines()
    assert "not yet trained" in rows[1]
    if len(accuracies) < 3:
        assert "not yet trained" in rows[0]
    else:
        assert rows[0] == "| `bop` | 1 / 32 | **97.00 ± 1.00 %** | 50.00 ± 0.00 % | 25.00 → 1.000 % | 1.06 |"
        assert head.count("|") == rows[0].count("|") == rows[1].count("|")
        gone = {"bop": tmp_path / "gone", "ste": tmp_path / "ste"}
        again = TOOL["table"](protocol, gone, {}, "\n".join([head, _, *rows]))
        assert again.splitlines() == [head, _, *rows]
        narrow = "| method | flips, first → last epoch |\n| --- | --- |\n| `bop` | 25.00 → 1.000 % |"
        assert TOOL["table"](protocol, gone, {}, narrow).splitlines()[2] == "| `bop` |  |  | 25.00 → 1.000 % |  |"


def test_the_steps_of_the_nets_that_were_trained_are_timed_against_plain_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onebit.common.memory.keep_freed_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    finished_run(tmp_path / "bop", [0.9])
    protocol = dataclasses.replace(
        TOOL["PROTOCOLS"]["mlp"], seeds="0", step={"widths": (6, 8, 4), "batch": 4, "rounds": 1, "steps": 1}
    )
    file = tmp_path / "steps.json"
    assert TOOL["step_ratios"](file, "fp32") == {}
    TOOL["time_steps"](protocol, {"bop": tmp_path / "bop"}, file)
    ratios = TOOL["step_ratios"](file, "fp32")
    assert set(ratios) == {training_step.FLOOR, "bop"}
    assert ratios[training_step.FLOOR] == 1 != ratios["bop"] > 0


def test_the_results_list_the_recipes_that_are_not_yet_trained() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "untrained_recipes.py"))
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert results.endswith(tool["table"]()), "run tools/untrained_recipes.py"


def test_accuracies_in_the_results_are_those_in_the_recipes() -> None:
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("## Not yet trained")[0]
    name, checked = "", 0
    for line in results.splitlines():
        if not line.startswith("| "):
            name = ""
            continue
        command, _, *rest = (cell.strip() for cell in line.split("|")[1:-1])
        if asked := re.match(r"`onebit train ([\w-]+)`$", command):
            name = asked[1]
        if name and rest and (found := re.search(r"\d+\.\d\d %", rest[0])):
            measured = read_settings(recipe_path(name))["measured"]
            error = f"{100 - float(found[0][:-2]):.2f} %"
            assert found[0] in measured or error in measured, (name, found[0])
            checked += 1
    assert checked > 6
