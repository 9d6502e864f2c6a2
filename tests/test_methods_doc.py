"""docs/methods.md, docs/results.md and the tools that fill their tables."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from report_runs import task_cells, write_tasks

import onebit
from benchmarks import training_step
from onebit.cli.train_command import read_command, train_request
from onebit.nets import net_names
from onebit.recipe import methods, read_settings, recipe_names, recipe_path
from onebit.runs.task_grid import read_table
from tools import results_tasks

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "results_methods.py"))
RESULTS = runpy.run_path(str(ROOT / "tools" / "results_table.py"))
RESULT_FILES = (ROOT / "docs" / "results").glob("*/result.json")


def test_every_method_is_described() -> None:
    described, tables = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("methods.md", "results.md"))
    assert [name for name in methods() if f"| `{name}` |" not in described] == []
    for name in TOOL["PROTOCOLS"]:
        assert f"<!-- {name} -->\n" in tables
    assert tables.count("<!-- end -->") == len(TOOL["PROTOCOLS"]) + len(RESULTS["tables"]())
    for protocol in TOOL["PROTOCOLS"].values():
        rows = set(re.findall(r"^\| `([\w-]+)` \| \d+ / \d+ \|", tables, re.MULTILINE))
        assert rows >= set(protocol.names())


def test_the_choices_that_differ_from_the_authors_are_ours() -> None:
    """Each is named in docs/methods.md; this is what the code has of them."""
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
        recipe = train_request(read_command(["--model", "resnet20", "--dataset", "cifar10", "--method", name])).recipe
        assert (recipe.optimizer.decay_latents, recipe.optimizer.decay_norm) == (True, False)


def test_the_command_of_every_row_is_one_that_trains() -> None:
    for protocol in TOOL["PROTOCOLS"].values():
        for name in protocol.names():
            assert protocol.recipe(name).model.name == protocol.model


def finished_run(folder: Path, seed: int, correct: int, *flags: str, threads: int = 1) -> None:
    command = [*TOOL["PROTOCOLS"]["mlp"].command(folder.name)[1:], "--seeds", str(seed)]
    run = folder / f"seed-{seed}"
    run.mkdir(parents=True)
    rows = [{"flip_ratio": ratio} for ratio in (0.25, 0.01)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "recipe.yaml").write_text(train_request(read_command([*command, *flags])).recipe.to_yaml())
    test = {mode: {"correct": count, "count": 100} for mode, count in {"binary": correct, "latent": 50}.items()}
    result = {"seed": seed, "test": test, "device": "cpu", "threads": threads, "processes": 1, "precision": "fp32"}
    (run / "result.json").write_text(json.dumps(result))


def test_rows_are_of_the_seeds_that_were_measured_wherever_they_were_trained(tmp_path: Path) -> None:
    protocol: Any = dataclasses.replace(TOOL["PROTOCOLS"]["mlp"], methods=("bop", "ste"))
    entries: dict[str, Any] = {}

    def rows() -> list[str]:
        head, _, *rows = TOOL["table"](protocol, entries).splitlines()
        assert {row.count("|") for row in rows} == {head.count("|")}
        return rows

    assert [row.split(" | ")[2] for row in rows()] == ["not yet trained"] * 2
    finished_run(tmp_path / "here" / "bop", 1, 98)
    TOOL["take"](protocol, "bop", tmp_path / "here" / "bop", entries)
    assert rows()[0] == "| `bop` | 1 / 32 | **98.00 %** | 50.00 % | 25.00 → 1.000 % | 1 |  |"
    for seed, correct in {0: 96, 2: 97}.items():
        finished_run(tmp_path / "there" / "bop", seed, correct)
    for _ in range(2):  # the same runs again change nothing
        TOOL["take"](protocol, "bop", tmp_path / "there" / "bop", entries)
        entries["bop"]["step"] = 1.0625
        assert list(entries["bop"]["seeds"]) == ["0", "1", "2"]
        bop, ste = rows()
        assert bop == "| `bop` | 1 / 32 | **97.00 ± 1.00 %** | 50.00 ± 0.00 % | 25.00 → 1.000 % | 0–2 | 1.06 |"
        assert "not yet trained" in ste


@pytest.mark.parametrize(
    ("seed", "flags", "threads", "message"),
    [
        (3, (), 1, r"seed-3: trained with the seed 3, expected one of \(0, 1, 2\)"),
        (0, ("--optimizer.lr", "0.5", "--loss", "hinge"), 1, r"trained with another loss, optimizer\.lr than the comm"),
        (0, (), 2, "trained on cpu with 2 threads in 1 processes, expected cpu, 1, 1"),
    ],
)
def test_a_run_of_another_protocol_is_not_a_row(
    tmp_path: Path, seed: int, flags: tuple[str, ...], threads: int, message: str
) -> None:
    finished_run(tmp_path / "bop", seed, 90, *flags, threads=threads)
    with pytest.raises(SystemExit, match=message):
        TOOL["measured"](TOOL["PROTOCOLS"]["mlp"], "bop", tmp_path / "bop")


def test_a_run_in_another_precision_is_not_a_row(tmp_path: Path) -> None:
    finished_run(tmp_path / "bop", 0, 90)
    protocol = TOOL["PROTOCOLS"]["mlp"]
    assert TOOL["measured"](protocol, "bop", tmp_path / "bop")
    exact = dataclasses.replace(protocol, flags=(*protocol.flags, "--precision", "bf16"))
    with pytest.raises(SystemExit, match="trained in fp32, the command has another precision"):
        TOOL["measured"](exact, "bop", tmp_path / "bop")


def test_settings_that_are_off_are_not_those_of_the_default() -> None:
    default, off = (RESULTS["shipped"]("mnist-fast", flags) for flags in ({}, {"model.last_norm": "false"}))
    assert RESULTS["changes"](off, default) == {"model.last_norm": False}
    small = RESULTS["shipped"]("mnist-fast", {"model.widths": "[784,64,10]"})
    assert RESULTS["changes"](small, default) == {"model.widths": (784, 64, 10)}


def test_what_another_command_measured_is_not_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = TOOL["read_record"]()
    assert {name: set(entries) for name, entries in record.items()} == {
        name: set(protocol.names()) for name, protocol in TOOL["PROTOCOLS"].items()
    }
    changed = tmp_path / "methods.json"
    record["mlp"]["bop"]["command"] += " --epochs 19"
    changed.write_text(json.dumps(record))
    monkeypatch.setitem(TOOL["read_record"].__globals__, "RECORD", changed)
    with pytest.raises(SystemExit, match="mlp, bop: measured with another command than that of today"):
        TOOL["read_record"]()


def test_the_tables_of_methods_are_those_of_the_record() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert TOOL["written"](text, TOOL["read_record"]()) == text, "run python -m tools.results_methods --table"


def test_the_steps_of_the_nets_that_were_trained_are_timed_against_plain_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onebit.common.memory.keep_freed_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    step = {"widths": (6, 8, 4), "batch": 4, "rounds": 1, "seconds": 0.0}
    protocol = dataclasses.replace(TOOL["PROTOCOLS"]["mlp"], methods=("real", "bop"), step=step)
    ratios = TOOL["time_steps"](protocol)
    assert ratios.pop(training_step.FLOOR.name) == 1
    assert set(ratios) == {"real", "bop"}
    assert all(1 != ratio > 0 for ratio in ratios.values())


def test_the_tables_of_results_are_those_of_what_was_measured() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert RESULTS["written"](text) == text, "run python -m tools.results_table"


@pytest.mark.parametrize("picture", RESULTS["TOGETHER"])
def test_a_picture_of_several_nets_shows_the_logs_of_today(picture: str) -> None:
    folder, (dataset, _) = ROOT / "docs" / "results", RESULTS["TOGETHER"][picture]
    with Image.open(folder / picture) as drawn:
        assert drawn.info[RESULTS["LOGS_KEY"]] == RESULTS["digest_of_logs"](dataset), "python -m tools.results_table"
    assert {path.name for path in folder.glob("*.png")} == set(RESULTS["TOGETHER"])


def test_a_picture_of_several_nets_is_drawn_again_from_new_logs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [picture] = RESULTS["TOGETHER"]
    kept = Path(shutil.copytree(ROOT / "docs" / "results", tmp_path / "results"))
    monkeypatch.setitem(RESULTS["draw_together"].__globals__, "RESULTS", kept)
    drawn = (kept / picture).read_bytes()
    RESULTS["draw_together"](picture)
    assert (kept / picture).read_bytes() == drawn
    log = kept / "membrane-unet-ste-short" / "metrics.jsonl"
    log.write_text("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    RESULTS["draw_together"](picture)
    assert (kept / picture).read_bytes() != drawn


def test_settings_are_kept_without_what_an_earlier_run_measured(tmp_path: Path) -> None:
    run, copy = tmp_path / "run.yaml", tmp_path / "copy.yaml"
    for measured in ("measured: ''\n", "measured: 85 % of\n  all\n", "measured: >-\n  85 %: of\n  all\n", ""):
        run.write_text(f"name: a\n{measured}dataset: mnist\n")
        RESULTS["keep_settings"](run, copy)
        assert copy.read_text() == "name: a\ndataset: mnist\n"
    kept = sorted((ROOT / "docs" / "results").glob("*/recipe.yaml"))
    assert len(kept) > 15
    assert [path for path in kept if "\nmeasured:" in path.read_text(encoding="utf-8")] == []


def test_a_note_on_the_data_is_not_spliced_into_a_sentence() -> None:
    note = "6 of its 30 images, drawn with seed 0, are the test images; and more"
    measured = RESULTS["measured"]({**RESULTS["results"]()["membrane-unet-ste-short"], "note": note})
    assert "; bf16 on membrane (6 of its 30 images, drawn with seed 0, are the test images); onebit train" in measured


def test_a_row_tells_from_which_net_a_training_began() -> None:
    name = "cifar10-resnet20-w1a4-short"
    notes: list[str] = []
    row = RESULTS["cells"](RESULTS["results"]()[name], {}, notes)
    assert row[0].endswith(" <sup>1</sup>")
    assert notes == ["Begun with the weights of `cifar10-resnet20-binaryconnect-short`"]


def test_only_seeds_that_a_command_can_name_are_taken(tmp_path: Path) -> None:
    for seed in (0, 2):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"recipe": "mnist-fast", "seed": seed}))
    with pytest.raises(SystemExit, match="one after the other"):
        RESULTS["take"](tmp_path)


@pytest.mark.parametrize(
    ("result", "settings", "message"),
    [
        ({}, ("lr: 0.02", "lr: 0.03"), "the seeds differ in optimizer.lr"),
        ({"device": "cuda"}, ("", ""), "trained on cuda with 1 threads in 1 processes, expected cpu, 1, 1"),
        ({"threads": 4}, ("", ""), "trained on cpu with 4 threads"),
        ({"processes": 2}, ("", ""), "in 2 processes"),
        ({"precision": "fp32"}, ("", ""), "seeds were trained in bf16 and in fp32"),
    ],
)
def test_a_run_of_other_settings_or_another_machine_is_not_taken(
    tmp_path: Path, result: dict[str, Any], settings: tuple[str, str], message: str
) -> None:
    made = {"recipe": "mnist-fast", "device": "cpu", "threads": 1, "processes": 1, "precision": "bf16"}
    recipe = (ROOT / "docs" / "results" / "mnist-fast" / "recipe.yaml").read_text(encoding="utf-8")
    for seed in (0, 1):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({**made, **(result if seed else {}), "seed": seed}))
        (folder / "recipe.yaml").write_text(recipe.replace(*settings) if seed else recipe)
    with pytest.raises(SystemExit, match=message):
        RESULTS["take"](tmp_path)


def test_seeds_that_follow_are_added_to_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mnist-w1a4"
    kept = tmp_path / "results" / name
    shutil.copytree(ROOT / "docs" / "results" / name, kept)
    monkeypatch.setitem(RESULTS["take"].__globals__, "RESULTS", kept.parent)
    before = json.loads((kept / "result.json").read_text())
    run = tmp_path / "run" / "seed-3"
    run.mkdir(parents=True)
    test = {mode: {**score, "correct": 9_000} for mode, score in before["test"].items()}
    place = {"device": "cpu", "threads": 1, "processes": 1}
    (run / "result.json").write_text(json.dumps({**before, **place, "seed": 3, "chosen_epoch": 4, "test": test}))
    settings = (kept / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(settings.replace("epochs: 5.0", "epochs: 6.0"))
    with pytest.raises(SystemExit, match=r"has another epochs than .*mnist-w1a4, whose seeds it would follow"):
        RESULTS["take"](run.parent)
    (run / "recipe.yaml").write_text(settings)
    log = (kept / "metrics.jsonl").read_bytes()
    assert RESULTS["take"](run.parent) == name
    after = json.loads((kept / "result.json").read_text())
    assert after["seeds"] == [0, 1, 2, 3]
    assert after["chosen_epochs"] == [*before["chosen_epochs"], 4]
    for mode, score in before["test"].items():
        assert after["test"][mode] == {**score, "correct": [*score["correct"], 9_000]}
    assert (kept / "metrics.jsonl").read_bytes() == log
    (run / "result.json").write_text(json.dumps({**before, **place, "seed": 4, "chosen_epoch": 4, "precision": "fp32"}))
    with pytest.raises(SystemExit, match="precision: the first seeds have 'bf16', the others 'fp32'"):
        RESULTS["take"](run.parent)


@pytest.mark.parametrize("net", net_names())
def test_a_row_links_the_net_that_ships(net: str) -> None:
    recipe = onebit.load(net).card.recipe  # type: ignore[union-attr]
    assert f"[`{net}`](nets.md)" in RESULTS["cells"](RESULTS["results"]()[recipe], {}, [])[-1]


def test_published_figures_are_compared_in_their_own_mode_and_lines_share_notes() -> None:
    result = {
        "recipe": "mnist-fast",
        "dataset": "mnist",
        "test": {
            mode: {"count": 100, "correct": correct}
            for mode, correct in {"binary": [97, 99], "latent": [96, 96]}.items()
        },
    }
    notes: list[str] = []
    shown = [
        RESULTS["_published"](result | {"dataset": dataset}, {"figure": 97.5, "mode": mode, "note": note}, notes)
        for dataset, mode, note in [("mnist", "binary", "A"), ("cifar10", "binary", "B"), ("mnist", "latent", "A")]
    ]
    assert shown == [
        "2.50 (−0.50) <sup>1</sup>",
        "97.50 (+0.50) <sup>2</sup>",
        "2.50 latent (+1.50) <sup>1</sup>",
    ]
    assert RESULTS["_published"](result, {"note": "B"}, notes) == "none <sup>2</sup>"
    assert RESULTS["_published"](result, {}, notes) == ""
    assert notes == ["A", "B"]


def test_every_published_figure_is_of_a_net_that_was_trained() -> None:
    published = RESULTS["yaml"].safe_load((ROOT / "docs" / "results" / "published.yaml").read_text(encoding="utf-8"))
    assert set(published) <= set(RESULTS["results"]())


def test_recipes_say_what_was_measured_with_them() -> None:
    results = RESULTS["results"]()
    assert len(results) > 15
    for name in recipe_names():
        stated = read_settings(recipe_path(name))["measured"]
        tasks = results_tasks.measured() if name == results_tasks.NAME else RESULTS["UNTRAINED"]
        assert stated == (RESULTS["measured"](results[name]) if name in results else tasks), name


def test_seeds_of_several_tasks_have_the_settings_of_their_recipe_as_it_is_today() -> None:
    own, today = (
        RESULTS[read](of)
        for read, of in (("settings_of", ROOT / results_tasks.FOLDER / "recipe.yaml"), ("shipped", results_tasks.NAME))
    )
    assert RESULTS["changes"](own, today) == {}
    tables = [read_table(file) for file in sorted((ROOT / results_tasks.FOLDER).glob("seed-*.json"))]
    assert len(tables) == 3
    assert len({(table.tasks, table.parameters, max(c.task for c in table.cells)) for table in tables}) == 1


def test_an_unfinished_seed_of_several_tasks_is_not_taken(tmp_path: Path) -> None:
    write_tasks(tmp_path / "seed-0", task_cells({"ste": [[0.9], [0.5, 0.8]]}), tasks=5)
    with pytest.raises(SystemExit, match="seed-0: not finished"):
        RESULTS["take_tasks"](tmp_path)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULT_FILES))
def test_a_result_belongs_to_its_log_and_to_its_recipe_as_it_is_today(name: str) -> None:
    folder, result = ROOT / "docs" / "results" / name, RESULTS["results"]()[name]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[-1]["epoch"] == rows[-1]["epochs"] == result["epochs"] == len(rows)
    best = {
        "last epoch": lambda row: row["epoch"],
        "validation error": lambda row: -row["validation_error"],
        "validation mean IoU": lambda row: row.get("validation_mean_iou", 0),
    }[result["chosen_by"]]
    assert best(rows[result["chosen_epochs"][0] - 1]) == max(map(best, rows))
    flags = dict(zip(*[iter(shlex.split(result["flags"]))] * 2, strict=True))
    today = RESULTS["shipped"](name, {flag.removeprefix("--"): value for flag, value in flags.items()})
    assert RESULTS["changes"](RESULTS["settings_of"](folder / "recipe.yaml"), today) == {}
