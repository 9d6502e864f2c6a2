"""Runs in two stages, real weights before binary ones, and their trackers."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import onebit
from onebit.data import Dataset
from onebit.errors import UsageError
from onebit.recipe import Recipe, build_recipe, merge, methods
from onebit.runs.folder import RunFolder
from onebit.runs.opening import open_run
from onebit.runs.run import first_stage, test_modes as reported_modes, train_run
from onebit.runs.trackers import tracking
from onebit.runs.training import prepare
from onebit.train.history import STAGE_FOLDER
from onebit.train.weights import read_weights
from support.toy_training import Stop, checkpoint_without_times, metrics_without_times, stop_after_epoch, toy_data

TOY: dict[str, Any] = {
    "dataset": "toy",
    "model": {"widths": [64, 16, 4], "weight_quantizer": "sign", "input_quantizer": "ste_sign", "value": 0.5},
    "optimizer": {"lr": 0.02, "lr_scale": "glorot"},
    "first_stage": 2,
    "epochs": 3,
    "batch_size": 32,
    "device": "cpu",
    "precision": "fp32",
}
DATA: Dataset = toy_data()


def recipe(**settings: Any) -> Recipe:
    return build_recipe(merge(TOY, settings))


def train(folder: Path, asked: Recipe | None = None, *, resume: bool = False, **talk: Any) -> dict[str, Any]:
    asked = asked or recipe()
    run = RunFolder(folder, resume=resume)
    run.start(asked)
    return train_run(asked, DATA, run, **talk)


def weights_of(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in read_weights(path)[0].items()}


@dataclasses.dataclass
class Trained:
    """A finished run, its result, and the weights that each stage started from."""

    folder: Path
    result: dict[str, Any]
    starts: list[dict[str, bytes]]


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, starts = tmp_path_factory.mktemp("two") / "run", list[dict[str, bytes]]()

    def recorded(model: Any, *rest: Any, **options: Any) -> Any:
        starts.append({name: value.numpy().tobytes() for name, value in model.state_dict().items()})
        return onebit.fit(model, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onebit.runs.training.fit", recorded)
        return Trained(folder, train(folder, trackers=["tensorboard"]), starts)


@pytest.fixture(scope="module")
def one_stage(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("one") / "run"
    return Trained(folder, train(folder, recipe(first_stage=0), trackers=["tensorboard"]), [])


# -------------------------------------------------------------------------------------------------------------- stages
def test_the_second_stage_starts_from_the_best_weights_of_the_first(two_stages: Trained) -> None:
    folder, result = two_stages.folder, two_stages.result
    stage = folder / STAGE_FOLDER
    assert two_stages.starts[1] == weights_of(stage / "best.safetensors")
    assert json.loads((stage / "result.json").read_text())["test"].keys() == {"real"}
    rows = [metrics_without_times(stage), metrics_without_times(folder)]
    assert list(map(len, rows)) == [2, 3]
    assert result["test"].keys() == {"binary", "latent"}
    assert result["test"]["binary"]["accuracy"] > 0.6
    logs = [(path / "metrics.jsonl").read_text().splitlines() for path in (stage, folder)]
    assert result["seconds"] == pytest.approx(sum(json.loads(line)["seconds"] for log in logs for line in log))
    run = open_run(folder)
    assert (run.recipe, run.recipe.first_stage, run.recipe.init_from) == (recipe(), 2, None)


def test_a_method_that_draws_latents_to_signs_starts_from_real_ones(tmp_path: Path) -> None:
    prox = recipe(
        model={"weight_quantizer": "prox", "value": 1.0}, optimizer={"prox_strength": 1.0, "prox_freeze": 0.5}
    )
    assert train(tmp_path, prox)["test"].keys() >= {"binary"}


def test_the_first_stage_is_the_same_net_with_real_weights() -> None:
    stage = first_stage(recipe())
    assert (stage.model.weight_quantizer, stage.model.input_quantizer) == (None, "ste_sign")
    assert (stage.epochs, stage.first_stage, stage.schedule.step_size) == (2, 0, None)
    assert {name for name, _, _ in stage.changed_from(recipe())} == {
        *("model.weight_quantizer", "model.value", "model.init", "optimizer.latent_clip", "optimizer.lr_scale"),
        *("first_stage", "epochs"),
    }
    asked = recipe(epochs=8, first_stage=2, schedule={"name": "milestones", "milestones": [4, 6], "step_size": 2})
    assert (first_stage(asked).schedule.milestones, first_stage(asked).schedule.step_size) == ((1, 1.5), 0.5)


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_either_stage_resumes_bit_for_bit(tmp_path: Path, two_stages: Trained, epoch: int) -> None:
    seen = 0

    def stop(row: object) -> None:
        nonlocal seen
        seen += 1
        if seen == epoch:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path, on_epoch=stop)
    with pytest.raises(UsageError, match="run"):
        train(tmp_path)
    train(tmp_path, resume=True)
    for part in ("", STAGE_FOLDER):
        whole, parts = two_stages.folder / part, tmp_path / part
        assert metrics_without_times(parts) == metrics_without_times(whole)
        assert checkpoint_without_times(parts) == checkpoint_without_times(whole)
        assert weights_of(parts / "best.safetensors") == weights_of(whole / "best.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"name": "bop", "lr_scale": None}}, "latents"),
        ({"model": {"weight_quantizer": None}}, "first_stage"),
    ],
)
def test_impossible_stages_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(tmp_path, recipe(**settings))


# ------------------------------------------------------------------------------------------------------------ trackers
def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_the_numbers_of_the_files(one_stage: Trained, two_stages: Trained) -> None:
    folder, result = one_stage.folder, one_stage.result
    found, rows = scalars(folder), metrics_without_times(folder)
    assert found["validation_error"] == [(row["epoch"], pytest.approx(row["validation_error"])) for row in rows]
    assert {"lr", "flip_ratio", "layers/linear1/flip_ratio"} <= found.keys()
    assert not {"epoch", "epochs", "layers", "validation_weights"} & found.keys()
    last = rows[-1]["layers"]["linear2"]["input_saturation"]
    assert found["layers/linear2/input_saturation"][-1] == (3, pytest.approx(last))
    assert found["test/binary/ece"] == [(result["chosen_epoch"], pytest.approx(result["test"]["binary"]["ece"]))]
    for part, epochs in ((STAGE_FOLDER, 2), ("", 3)):
        assert len(scalars(two_stages.folder / part)["train_loss"]) == epochs


def test_a_resumed_run_continues_its_log(tmp_path: Path, one_stage: Trained) -> None:
    asked = recipe(first_stage=0)
    with pytest.raises(Stop):
        train(tmp_path, asked, trackers=["tensorboard"], on_epoch=stop_after_epoch(2))
    result = train(tmp_path, asked, resume=True, trackers=["tensorboard"])
    whole, parts = scalars(one_stage.folder), scalars(tmp_path)
    assert parts["train_loss"] == whole["train_loss"]
    assert parts.keys() == whole.keys()
    with tracking(["tensorboard"], recipe(), tmp_path) as (again,):
        again.end(result | {"chosen_epoch": 1})
    assert [step for step, _ in scalars(tmp_path)["train_loss"]] == [1, 2, 3]


class StandIn(types.ModuleType):
    """In place of the package wandb: keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[types.SimpleNamespace] = []
        self.Settings = dict

    def init(self, **options: Any) -> types.SimpleNamespace:
        rows: dict[int, dict[str, float]] = {}
        run = types.SimpleNamespace(options=options, rows=rows, summary={}, status=None)
        run.log = lambda values, step: rows.update({step: values})
        run.finish = lambda exit_code: setattr(run, "status", exit_code)
        self.runs.append(run)
        return run


def test_a_resumed_run_continues_its_log_at_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    asked = dataclasses.replace(recipe(first_stage=0), name="tracked")
    with pytest.raises(Stop):
        train(tmp_path, asked, trackers=["wandb"], on_epoch=stop_after_epoch(2))
    result = train(tmp_path, asked, resume=True, trackers=["wandb"])
    stopped, resumed = wandb.runs
    for run, resume in ((stopped, None), (resumed, "allow")):
        told = {key: run.options[key] for key in ("id", "dir", "name", "mode", "resume")}
        name = (tmp_path / "wandb-id").read_text().strip()
        assert told == {"id": name, "dir": str(tmp_path), "name": "tracked", "mode": "offline", "resume": resume}
        assert run.options["config"] == asked.settings()
    assert (list(stopped.rows), list(resumed.rows)) == ([1, 2], [2, 3])  # it stopped before epoch 2 was stored
    assert all("layers/linear2/flip_ratio" in row for run in wandb.runs for row in run.rows.values())
    assert (stopped.status, stopped.summary) == (1, {})
    assert (resumed.status, resumed.summary["test/binary/accuracy"]) == (0, result["test"]["binary"]["accuracy"])


def test_latents_that_are_signs_have_no_test_mode() -> None:
    for method, modes in (("bop", ["binary"]), ("binaryconnect", ["binary", "latent"])):
        asked = recipe(**merge(methods()[method], {"first_stage": 0.0}))
        assert reported_modes(prepare(asked, DATA).model, draws=10) == modes
