"""`onebit train`: the run folder, the answer, resuming, and refusals."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from onebit.recipe import build_recipe, read_settings
from support.command_line import SMALL, Onebit, command

RUN_FILES = {
    "recipe.yaml",
    "metrics.jsonl",
    "last.ckpt",
    "best.safetensors",
    "final.safetensors",
    "result.json",
    "log.txt",
}


def test_a_run_folder_holds_what_the_design_names(run_folder: Path) -> None:
    assert {path.name for path in run_folder.iterdir()} == RUN_FILES
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"train_loss", "validation_error", "seconds", "lr", "flip_ratio", "saturation"} <= rows[0].keys()
    assert rows[0]["validation_weights"] == "binary"
    result = json.loads((run_folder / "result.json").read_text())
    assert result["test"].keys() == {"binary", "latent"}
    binary = result["test"]["binary"]
    assert binary["count"] == 2000
    assert binary["accuracy"] == binary["correct"] / 2000
    assert binary["accuracy"] > 0.7


def test_json_is_one_object_and_resume_on_an_empty_folder_starts_afresh(onebit: Onebit, tmp_path: Path) -> None:
    done = onebit("train", "digits-smoke", *SMALL, "--epochs", "0.1", "--out", tmp_path / "run", "--resume", "--json")
    assert done.status == 0
    assert {"recipe", "dataset", "seed", "epochs", "test", "seconds", "parameters"} <= done.json.keys()
    assert {"accuracy", "error", "loss", "correct", "count"} <= done.json["test"]["binary"].keys()
    assert "starting afresh" in done.err


def test_the_stored_recipe_repeats_the_run(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    again = onebit("train", run_folder / "recipe.yaml", "--out", tmp_path / "again", "--json")
    assert again.status == 0
    first, second = (load_file(folder / "final.safetensors") for folder in (run_folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    recipe = build_recipe(read_settings(run_folder / "recipe.yaml"))
    assert (recipe.model.widths, recipe.validation) == ((784, 32, 10), 1000)
    assert recipe.to_yaml() == (run_folder / "recipe.yaml").read_text()


def test_print_config_is_a_recipe_with_the_checks_of_a_training(onebit: Onebit, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(onebit("train", "digits-smoke", "--seed", "7", "--print-config").out)
    printed = build_recipe(read_settings(tmp_path / "config.yaml"))
    assert (printed.seed, printed.measured.startswith("Test accuracy")) == (7, True)
    # what was measured with the file does not hold for other settings
    assert onebit("train", "digits-smoke", "--epochs", "3", "--print-config", "--json").json["measured"] == ""
    for flags in (("--model", "mpl"), ("--loss", "squared"), ("--dataset", "mnits")):
        refused = onebit("train", "mnist-fast", *flags, "--print-config")
        assert (refused.status, refused.out) == (2, "")
        assert flags[1] in refused.line
    assert onebit("train", "mnist-fast", "--teacher", "not-yet-trained", "--print-config").status == 0  # reads no file


def test_a_locked_folder_is_refused(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is locked, and nothing else is there yet."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits-smoke"
    code = "import sys; from onebit.train.lock import lock_folder\nwith lock_folder(sys.argv[1]): print(); input()"
    other = subprocess.Popen(
        [*command()[:1], "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        for flags in (["--out", folder], ["--out", folder, "--overwrite"], ["--resume", folder]):
            refused = onebit("train", "digits-smoke", *flags)
            assert refused.status == 2
            assert "another process" in refused.line
        done = onebit("train", "digits-smoke", *SMALL, "--epochs", "0.1", "--json")
        assert done.json["folder"] == "runs/digits-smoke-2"
        assert "on cpu, 1 thread\n" in done.err
    finally:
        other.communicate("\n")


def test_a_used_folder_is_resumed_with_its_own_recipe_only(onebit: Onebit, run_folder: Path) -> None:
    before = (run_folder / "result.json").read_bytes()
    for flags, noun in (
        (["--out", run_folder], f"--resume {run_folder}"),
        (["--epochs", "5", "--resume", run_folder], "epochs = 2, now it is 5"),
        (["--method", "bnn", "--resume", run_folder], "model.weight_quantizer"),
    ):
        refused = onebit("train", "digits-smoke", *SMALL, *flags)
        assert (refused.status, noun in refused.line) == (2, True)
    assert (run_folder / "result.json").read_bytes() == before


def test_resume_names_a_run_that_is_there(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    assert "no run there" in onebit("train", "--resume", tmp_path / "typo").line
    assert "no run there" in onebit("train", "--resume", run_folder / "nope.ckpt").line
    assert onebit("train", "--resume", run_folder, "--out", tmp_path / "other").status == 2
    assert not (tmp_path / "other").exists()
    assert onebit("train", "--resume", run_folder / "last.ckpt").status == 0
    assert "no run there" in onebit("train", "--resume", "--out", tmp_path / "typo").line
    assert onebit("train", "--resume", "--out", run_folder, "--json").json["folder"] == str(run_folder)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(onebit: Onebit, tmp_path: Path) -> None:
    flags = [*SMALL, "--method", "real", "--epochs", "3", "--optimizer.lr", "1e37", "--precision", "fp32"]
    flags += ["--schedule.name", "constant", "--schedule.warmup", "0"]
    failed = onebit("train", "digits-smoke", *flags, "--out", tmp_path / "run")
    assert failed.status == 2
    last = failed.err.splitlines()[-1]
    assert "the loss became" in last
    assert "epoch 1, step" in last


@pytest.mark.filterwarnings("ignore:.*changed its sign")
def test_patience_and_a_plateau_end_a_run_that_no_longer_learns(onebit: Onebit, tmp_path: Path) -> None:
    flags = [*SMALL, "--epochs", "9", "--optimizer.lr", "1e-12", "--patience", "2", "--out", tmp_path / "run"]
    flags += ["--schedule", "plateau", "--schedule.patience", "0", "--schedule.warmup", "0"]
    done = onebit("train", "digits-smoke", *flags)
    assert done.status == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    errors = [row["validation_error"] for row in rows]
    best = errors.index(min(errors)) + 1
    assert len(rows) == best + 2 < 9
    assert f"stopped after epoch {best + 2}; epoch {best}," in done.out.splitlines()[-1]
    worse = [i for i in range(1, len(errors)) if errors[i] >= min(errors[:i])]
    assert [row["lr"] for row in rows] == pytest.approx(
        [1e-12 * 0.1 ** sum(i <= epoch for i in worse) for epoch in range(len(rows))], rel=1e-9
    )
    again = onebit("train", "--resume", tmp_path / "run", "--json").json
    assert (again["last_epoch"], again["epochs"], again["chosen_epoch"]) == (best + 2, 9, best)
    assert "patience" in onebit("train", "digits-smoke", *SMALL, "--patience", "0").line
    assert "validation" in onebit("train", "digits-smoke", *SMALL, "--patience", "2", "--validation", "0").line


def test_a_full_disk_is_one_line_and_loses_nothing(onebit: Onebit, tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the checkpoint is the first file above it."""
    folder = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        done = onebit("train", "digits-smoke", *SMALL, "--out", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 2
    assert "Traceback" not in done.err
    assert "cannot write" in done.err.splitlines()[-1]
    assert not list(folder.glob(".onebit-*"))
    assert (folder / "recipe.yaml").exists()
