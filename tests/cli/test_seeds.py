"""`onebit train --seeds`."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from onebit.cli.seeds import parse_seeds, train_seeds
from onebit.data import load_dataset
from onebit.errors import CheckpointError, UsageError
from onebit.recipe import Recipe, build_recipe, read_settings
from onebit.runs.folders import seed_folder
from onebit.train.ranks import ALONE
from support.command_line import SMALL, Onebit

DATA = load_dataset("toy")
QUICK = ["digits-smoke", *SMALL, "--epochs", "0.5"]


@pytest.fixture(scope="module")
def seeds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds") / "all"


def test_each_seed_has_a_folder_and_the_summary_says_what_they_reached(onebit: Onebit, seeds_folder: Path) -> None:
    done = onebit("train", *QUICK, "--seeds", "0,3", "--out", seeds_folder, "--json")
    assert done.status == 0
    assert sorted(path.name for path in seeds_folder.iterdir()) == ["seed-0", "seed-3", "seeds.json"]
    assert done.json == json.loads((seeds_folder / "seeds.json").read_text())
    runs = [json.loads((seeds_folder / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 3)]
    assert done.json["runs"] == runs
    assert [run["seed"] for run in runs] == done.json["seeds"] == [0, 3]
    binary = done.json["test"]["binary"]
    accuracies = [run["test"]["binary"]["accuracy"] for run in runs]
    assert accuracies[0] != accuracies[1]
    assert binary["n"] == 2
    assert binary["accuracies"] == accuracies
    assert binary["accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert binary["sd"] == pytest.approx(statistics.stdev(accuracies))
    assert done.json["test"].keys() == {"binary", "latent"}
    alone = onebit("train", *QUICK, "--seed", "3", "--out", seeds_folder.parent / "alone", "--json")
    assert alone.json["test"] == runs[1]["test"]


def test_resuming_leaves_out_what_is_done(onebit: Onebit, seeds_folder: Path) -> None:
    kept = (seeds_folder / "seed-0" / "last.ckpt").stat().st_mtime_ns
    shutil.rmtree(seeds_folder / "seed-3")
    done = onebit("train", "--seeds", "0,3-4", "--resume", seeds_folder)
    assert done.status == 0
    assert "seed 0 (1 of 3, already trained)" in done.err
    assert (seeds_folder / "seed-0" / "last.ckpt").stat().st_mtime_ns == kept
    accuracies = [
        run["test"]["binary"]["accuracy"] for run in json.loads((seeds_folder / "seeds.json").read_text())["runs"]
    ]
    mean, sd = statistics.mean(accuracies), statistics.stdev(accuracies)
    each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    expected = f"test accuracy {100 * mean:.2f} ± {100 * sd:.2f} % with binary weights (n = 3: {each})"
    assert expected in done.out.splitlines()


def test_resuming_one_seed_keeps_the_others_in_the_summary(onebit: Onebit, seeds_folder: Path, tmp_path: Path) -> None:
    before = json.loads((seeds_folder / "seeds.json").read_text())
    assert before["seeds"] == [0, 3, 4]
    assert onebit("train", "--seeds", "3", "--resume", seeds_folder, "--json").json == before
    more = shutil.copytree(seeds_folder, tmp_path / "more")
    assert onebit("train", *QUICK, "--seeds", "1", "--out", more, "--json").json["seeds"] == [0, 1, 3, 4]
    other = onebit("train", *QUICK, "--seeds", "7", "--optimizer.lr", "0.5", "--out", more)
    assert other.status == 2
    assert f"{more / 'seed-0'}: was trained with optimizer.lr = 0.03, now it is 0.5" in other.err
    assert not (more / "seed-7").exists()


def test_folders_that_are_used_or_of_another_recipe_are_refused(onebit: Onebit, seeds_folder: Path) -> None:
    assert "seed-0 holds a run already" in onebit("train", *QUICK, "--seeds", "0", "--out", seeds_folder).line
    changed = onebit("train", "--seeds", "0", "--resume", seeds_folder, "--optimizer.lr", "0.5")
    assert "was trained with optimizer.lr = 0.03, now it is 0.5" in changed.line
    longer = onebit("train", "--seeds", "0", "--resume", seeds_folder, "--epochs", "9")
    assert "was trained with epochs = " in longer.line
    assert "holds the runs of several seeds" in onebit("train", "--resume", seeds_folder).line
    for verb in (["evaluate"], ["verify"], ["inspect"], ["pack", "-o", "x.1bit"]):
        assert "holds no weights" in onebit(*verb, seeds_folder).line
    (seeds_folder / "seed-3" / "result.json").write_text("{")
    assert "result.json: damaged" in onebit("train", "--seeds", "3", "--resume", seeds_folder).err.splitlines()[-1]


def test_seeds_do_not_go_into_a_single_run(onebit: Onebit, run_folder: Path) -> None:
    for resume in ([], ["--resume"]):
        refused = onebit("train", *QUICK, "--seeds", "0-1", "--out", run_folder, *resume)
        assert (refused.status, "--seeds" in refused.line) == (2, True)
    assert not list(run_folder.glob("seed-*"))


def test_ctrl_c_says_how_to_go_on(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all seeds, and with the code of a model of the user's own."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onebit.runs.run.fit_recipe", interrupted)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    code = f"{tmp_path / 'nets.py'}:net"
    done = onebit("train", "--model", code, "--dataset", "toy", "--seeds", "3,5", "--out", tmp_path / "run")
    assert done.status == 130
    assert done.err.endswith(f"continue with: onebit train --model {code} --seeds 3,5 --resume {tmp_path / 'run'}\n")


def test_finished_seeds_are_of_the_same_data(seeds_folder: Path, tmp_path: Path) -> None:
    recipe = build_recipe(read_settings(seeds_folder / "seed-0" / "recipe.yaml"))
    other = replace(DATA, note="a copy stored as JPEG")
    with pytest.raises(CheckpointError, match="other data"):
        train_seeds(recipe, [0], seeds_folder, data=other, train=pytest.fail, resume=True, ranks=ALONE)
    run, own = seed_folder(tmp_path, 0), Recipe(dataset="own")
    run.mkdir()
    (run / "recipe.yaml").write_text(own.to_yaml())
    (run / "result.json").write_text("{}")
    (run / "data.json").write_text(json.dumps({"directory": "/own", "digest": "of other data"}))
    with pytest.raises(CheckpointError, match="other images"):
        train_seeds(own, [0, 1], tmp_path, data=DATA, train=pytest.fail, resume=True, ranks=ALONE)


def test_a_finished_seed_is_about_the_weights_in_its_folder(onebit: Onebit, seeds_folder: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(seeds_folder, tmp_path / "runs")
    (runs / "seed-3" / "result.json").write_text((runs / "seed-0" / "result.json").read_text())
    shutil.copy(runs / "seed-4" / "best.safetensors", runs / "seed-0")
    refused = onebit("train", "--seeds", "0", "--resume", runs)
    assert refused.status == 2
    assert "other weights" in refused.err
    result = json.loads((runs / "seed-0" / "result.json").read_text())
    del result["sha256"]  # as earlier versions wrote it
    for seed in (0, 3):
        (runs / f"seed-{seed}" / "result.json").write_text(json.dumps(result))
    assert onebit("train", "--seeds", "0", "--resume", runs).status == 0


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("0,3,7", [0, 3, 7]), ("5", [5]), ("7, 0-1,0", [7, 0, 1])]
)
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "0-", "0,,1", "9" * 40])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)
