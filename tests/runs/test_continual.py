"""Continual learning: what carries over from task to task, what is tested under which permutation, resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onebit.data import Dataset, load_dataset, permute_pixels
from onebit.errors import UnknownNameError
from onebit.evaluation.modes import evaluate
from onebit.recipe import Recipe, build_recipe, read_settings, recipe_path
from onebit.runs import continual
from onebit.runs.continual import arms, task_recipe, train_continual
from onebit.runs.folder import RunFolder
from onebit.runs.opening import open_run
from onebit.train.weights import read_state


@pytest.fixture(scope="module")
def toy() -> Dataset:
    data = load_dataset("toy")
    return Dataset("toy", data.train[:128], data.train[:0], data.test[:64], data.classes)


def recipe(**settings: Any) -> Recipe:
    model = {"widths": [64, 32, 4], "weight_quantizer": "concrete_sign", "weight_options": {"temperature": 0.01}}
    optimizer = {"name": "bayesbinn", "lr": 0.05, "latent_clip": None, "lagged_mean": True}
    base = {"name": "try", "dataset": "toy", "epochs": 2, "batch_size": 32, "draws": 3, "precision": "fp32"}
    base |= {
        "model": model | {"init": "default"},
        "optimizer": optimizer,
        "continual": {"tasks": 3, "against": ["ste"]},
    }
    return build_recipe(base | settings)


@pytest.fixture(scope="module")
def learned(toy: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tasks") / "run"
    return folder, train_continual(recipe(), toy, RunFolder(folder))


def test_both_methods_are_tested_on_every_task_seen(learned: tuple[Path, dict[str, Any]]) -> None:
    folder, result = learned
    assert result == json.loads((folder / "continual.json").read_text())
    modes = {"bayesbinn": ["ensemble:3", "binary", "binary"], "ste": ["binary", "binary"]}
    for method, weights in modes.items():
        cells = [cell for cell in result["cells"] if cell["method"] == method]
        assert [(cell["task"], cell["seen"]) for cell in cells] == [
            (task, seen) for task in (1, 2, 3) for seen in range(1, task + 1) for _ in weights
        ]
        assert [cell["weights"] for cell in cells] == weights * 6
    assert result["test"].keys() == {"ensemble:3", "binary"}
    assert result["test"]["binary"]["count"] == 3 * 64
    final = [c for c in result["cells"] if (c["method"], c["task"], c["bn"]) == ("bayesbinn", 3, "trained")]
    assert result["test"]["binary"]["correct"] == sum(c["correct"] for c in final if c["weights"] == "binary")


def test_the_seconds_of_each_task_count_once(learned: tuple[Path, dict[str, Any]]) -> None:
    folder, result = learned
    logs = [path.read_text().splitlines() for path in folder.glob("*/task-*/metrics.jsonl")]
    assert len(logs) == 6
    assert result["seconds"] == pytest.approx(sum(json.loads(line)["seconds"] for log in logs for line in log))


def test_each_cell_is_the_accuracy_under_its_permutation(learned: tuple[Path, dict[str, Any]], toy: Dataset) -> None:
    folder, result = learned
    net = open_run(folder / "bayesbinn" / "task-2")
    assert net.recipe.permutation == 2
    for seen in (1, 2):
        score = evaluate(net.model, permute_pixels(toy, seen).test, weights="binary", bn="trained")
        (cell,) = (
            cell
            for cell in result["cells"]
            if (cell["method"], cell["task"], cell["seen"], cell["weights"], cell["bn"])
            == ("bayesbinn", 2, seen, "binary", "trained")
        )
        assert cell["correct"] == score.correct


def test_the_statistics_of_an_ensemble_are_of_the_latest_task(
    learned: tuple[Path, dict[str, Any]], toy: Dataset
) -> None:
    """Those in the file belong to the signs."""
    folder, result = learned
    cells = {
        (cell["task"], cell["seen"]): cell["loss"]
        for cell in result["cells"]
        if (cell["method"], cell["weights"]) == ("bayesbinn", "ensemble:3")
    }
    model, latest = open_run(folder / "bayesbinn" / "task-2").model, permute_pixels(toy, 2).train
    for seen in (1, 2):
        test = permute_pixels(toy, seen).test
        of_draws = evaluate(model, test, weights="ensemble:3", bn="reestimate", train=latest)
        of_signs = evaluate(model, test, weights="ensemble:3", bn="trained")
        assert cells[2, seen] == of_draws.loss != of_signs.loss


def test_the_posterior_of_a_task_is_the_prior_of_the_next(learned: tuple[Path, dict[str, Any]]) -> None:
    folder = learned[0] / "bayesbinn"
    before = read_state(folder / "task-1" / "final.safetensors")[0]
    held = torch.load(folder / "task-2" / "last.ckpt", weights_only=True)
    priors = [state["prior"] for state in held["optimizer"]["state"].values() if "prior" in state]
    latents = [tensor for name, tensor in before.items() if name.startswith("linear")]
    assert len(priors) == len(latents) == 2
    assert all(torch.equal(prior, latent) for prior, latent in zip(priors, latents, strict=True))
    first = torch.load(folder / "task-1" / "last.ckpt", weights_only=True)
    assert not any("prior" in state for state in first["optimizer"]["state"].values())
    assert not task_recipe(recipe(continual={"tasks": 3, "prior": False}), 2).optimizer.prior


def test_a_stopped_training_goes_on_bit_identically(
    learned: tuple[Path, dict[str, Any]], toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 14:  # in the second epoch of the second task, of 8 steps each
            raise KeyboardInterrupt

    steps = 0
    with pytest.raises(KeyboardInterrupt):
        train_continual(recipe(), toy, RunFolder(tmp_path), on_step=stop)
    assert (tmp_path / "bayesbinn" / "task-2" / "last.ckpt").exists()
    result = train_continual(recipe(), toy, RunFolder(tmp_path, resume=True))
    assert result["cells"] == learned[1]["cells"]
    monkeypatch.setattr(continual, "train_part", None)  # finished tasks are not trained again
    assert train_continual(recipe(), toy, RunFolder(tmp_path, resume=True))["cells"] == learned[1]["cells"]
    for part in ("bayesbinn/task-3", "ste/task-3"):
        ours, whole = (read_state(folder / part / "final.safetensors")[0] for folder in (tmp_path, learned[0]))
        assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_the_arms_share_all_that_the_methods_do_not_set() -> None:
    own = build_recipe(read_settings(recipe_path("mnist-permuted")))
    both = arms(own)
    assert list(both) == ["bayesbinn", "ste"]
    assert both["bayesbinn"] is own
    assert {name for name, _, _ in both["ste"].changed_from(own)} == {
        "model.weight_quantizer",
        "model.weight_options.temperature",
        "optimizer.name",
        "optimizer.lr",
        "optimizer.latent_clip",
        "optimizer.clip_grad_value",
    }
    assert (both["ste"].optimizer.name, both["ste"].optimizer.lr, both["ste"].epochs) == ("adam", 0.01, 100)
    assert list(arms(replace(own, continual=replace(own.continual, own="bop")))) == ["bop", "ste"]
    with pytest.raises(UnknownNameError, match="sten"):
        arms(replace(own, continual=replace(own.continual, against=("sten",))))


def test_every_seed_has_its_own_permutations() -> None:
    tasks = [task_recipe(replace(recipe(), seed=seed), task).permutation for seed in (0, 1, 2) for task in (1, 2, 3)]
    assert len(set(tasks)) == 9
