"""docs/methods.md, docs/results.md and the tool that fills its tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import onebit
from onebit.cli.train_command import read_command, train_request
from onebit.data import DATASETS
from onebit.recipe import build_recipe, methods, read_settings, recipe_names, recipe_path
from onebit.runs.result import read_table
from tools import results

ROOT = Path(__file__).parents[1]
RECORD = results.load(results.METHODS)


def changed(file: Path) -> set[str]:
    """The settings that change training and differ between a stored recipe and the one that ships."""
    stored = build_recipe(read_settings(file))
    ships = build_recipe(read_settings(recipe_path(stored.name)))
    if ships.validation is None:  # a run states the number
        ships = replace(ships, validation=DATASETS[ships.dataset].validation)
    return {name for name, _, _ in stored.changed_from(ships)} - {"seed", "precision"}


def test_every_method_is_described_and_trained() -> None:
    described = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert [name for name in methods() if f"| `{name}` |" not in described] == []
    assert set(RECORD["mlp"]) == set(methods())


def test_the_tables_are_those_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    tables = results.tables()
    monkeypatch.setattr(results, "tables", lambda: tables)
    assert results.written(text) == text, "run python -m tools.results"
    assert text.count("<!-- end -->") == len(tables)


def test_documented_differences_from_the_authors_are_in_the_code() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    _, _, stated = text.partition("\n## Where methods differ from their authors' code\n")
    stated = stated.partition("\n## ")[0]
    named = {
        name for line in re.findall(r"^- (`[^.:]*)", stated, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }
    assert {"bop", "xnor", "irnet", "adabin", "recu", "react", "bayesbinn"} <= named
    assert methods()["bop"]["model"]["input_quantizer"] is None
    for name in ("irnet", "adabin"):
        assert onebit.quantizers.WEIGHT_QUANTIZERS[name]().t_start == 0.1
    small = {"input_shape": (3, 8, 8), "width": 1 / 4, "real_first": True, "real_last": True, "bireal": True}
    recu = onebit.create_model("resnet20", weight_quantizer="recu", input_quantizer="approx_sign", **small)
    assert type(recu.layer2[0].downsample).__name__ == "PaddedShortcut"
    react = onebit.create_model(
        "resnet20", weight_quantizer="sign", input_quantizer="rsign", activation="rprelu", **small
    )
    assert type(react.relu).__name__ == "RPReLU"
    for name in ("irnet", "recu", "adabin"):
        recipe = train_request(read_command(["--model", "resnet20", "--dataset", "cifar10", "--method", name]))
        assert (recipe.optimizer.decay_latents, recipe.optimizer.decay_norm) == (True, False)


def test_rows_are_of_the_seeds_that_were_measured(tmp_path: Path) -> None:
    entries: dict[str, Any] = {name: {"command": RECORD["mlp"][name]["command"]} for name in ("bop", "ste")}
    assert results.methods_table(entries).count("not yet trained") == 2
    for seed, correct in {0: 96, 1: 98, 2: 97}.items():
        (folder := tmp_path / f"seed-{seed}").mkdir()
        test = {"binary": {"bn": "trained", "correct": correct, "count": 100}}
        (folder / "result.json").write_text(json.dumps({"seed": seed, "chosen_epoch": 1, "test": test}))
    entries["bop"] |= {**results.scores(sorted(tmp_path.iterdir())), "step": 1.0625}
    assert results.methods_table(entries).splitlines()[2] == "| `bop` | 1/32 | 97.00 ± 1.00 | 1.06 |"


def test_steps_are_timed_against_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBIT_NATIVE", "1")
    assert results.time_step(RECORD["mlp"]["bop"], rounds=1, seconds=0.0) > 0


def test_a_finished_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, kept = "mnist-w1a4", ROOT / "docs" / "results"
    before = results.results()[name]
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    for at, seed in enumerate(before["seeds"]):
        run = tmp_path / "run" / f"seed-{seed}"
        run.mkdir(parents=True)
        test = {mode: score | {"correct": score["correct"][at]} for mode, score in before["test"].items()}
        one = {**before, "seed": seed, "chosen_epoch": before["chosen_epochs"][at], "test": test}
        (run / "result.json").write_text(json.dumps({**one, "device": "cpu", "threads": 1, "processes": 1}))
        (run / "recipe.yaml").write_bytes((kept / name / "recipe.yaml").read_bytes() + b"measured: old\n")
        (run / "metrics.jsonl").write_bytes((kept / name / "metrics.jsonl").read_bytes())
    results.take(tmp_path / "run")
    assert results.results()[name] | {"remark": before["remark"]} == before
    assert "measured" not in (tmp_path / "results" / name / "recipe.yaml").read_text()
    assert (tmp_path / "results" / name / "error.png").exists()


def test_rows_name_the_data_and_the_first_weights() -> None:
    note = "6 of its 30 images, drawn with seed 0, are the test images; and more"
    measured = results.measured({**results.results()["membrane-unet-ste-short"], "note": note})
    assert "; bf16 on membrane (6 of its 30 images, drawn with seed 0, are the test images); onebit train" in measured
    notes: list[str] = []
    row = results.cells(results.results()["cifar10-resnet20-w1a4-short"], {}, notes)
    assert row[0].endswith(" <sup>1</sup>")
    assert notes == ["Begun with the weights of `cifar10-resnet20-binaryconnect-short`"]


def test_published_figures_are_compared_in_their_test_mode_and_lines_share_notes() -> None:
    correct = {"binary": [97, 99], "latent": [96, 96]}
    test = {mode: {"count": 100, "correct": counts} for mode, counts in correct.items()}
    notes: list[str] = []
    shown = [
        results.compared({"dataset": dataset, "test": test}, {"figure": 97.5, "mode": mode, "note": note}, notes)
        for dataset, mode, note in [("mnist", "binary", "A"), ("cifar10", "binary", "B"), ("mnist", "latent", "A")]
    ]
    assert shown == [
        "2.50 (−0.50) <sup>1</sup>",
        "97.50 (+0.50) <sup>2</sup>",
        "2.50 latent (+1.50) <sup>1</sup>",
    ]
    assert notes == ["A", "B"]


def test_every_published_figure_is_of_a_net_that_was_trained() -> None:
    published = results.yaml.safe_load((ROOT / "docs" / "results" / "published.yaml").read_text(encoding="utf-8"))
    assert set(published) <= set(results.results())


def test_recipes_say_what_was_measured_with_them() -> None:
    measured = results.results()
    assert len(measured) > 15
    for name in recipe_names():
        stated = read_settings(recipe_path(name))["measured"]
        tasks = results.tasks_measured() if name == results.TASKS else results.UNTRAINED
        assert stated == (results.measured(measured[name]) if name in measured else tasks), name


def test_seeds_of_several_tasks_have_the_settings_of_their_recipe_as_it_is_today() -> None:
    folder = results.RESULTS / results.TASKS
    assert changed(folder / "recipe.yaml") == set()
    assert len([read_table(file) for file in folder.glob("seed-*.json")]) == 3


@pytest.mark.parametrize("name", results.results())
def test_a_result_belongs_to_its_log_and_to_its_recipe_as_it_is_today(name: str) -> None:
    folder, result = results.RESULTS / name, results.results()[name]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[-1]["epoch"] == rows[-1]["epochs"] == result["epochs"] == len(rows)
    best = {
        "last epoch": lambda row: row["epoch"],
        "validation error": lambda row: -row["validation_error"],
        "validation mean IoU": lambda row: row.get("validation_mean_iou", 0),
    }[result["chosen_by"]]
    assert best(rows[result["chosen_epochs"][0] - 1]) == max(map(best, rows))
    assert changed(folder / "recipe.yaml") == set()
