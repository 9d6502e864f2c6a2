from __future__ import annotations

import base64
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onebit.errors import DataError, FormatError, UsageError
from onebit.models.settings import Mlp
from onebit.optim.settings import Adam
from onebit.report import compare_runs, drawing, write_report
from onebit.report.curves import per_epoch
from onebit.report.run_folders import differing_settings, find_folders, group_runs, read_runs
from support.report_runs import RECIPE, check_picture, make_run, page_text, row

HOSTILE = '<script>alert("1")</script> & $x^2$'


def test_a_report_writes_pictures_and_one_page(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs" / "first", weights=True)
    other = replace(RECIPE, name="real", model=replace(RECIPE.model, weight_quantizer=None))
    second = make_run(tmp_path / "runs" / "second", recipe=other)
    folder = tmp_path / "deep" / "report"
    files = write_report([first, second], folder)
    assert [file.name for file in files] == ["error.png", "loss.png", "time.png", "weights-first.png", "index.html"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(file.name for file in files)
    for file in files[:3]:
        width, height = check_picture(file)
        assert width == 1200
        assert 500 < height < 800
    assert check_picture(files[3])[0] == 1110


@pytest.mark.usefixtures("no_ink")
def test_the_page_holds_runs_pictures_and_settings_and_fetches_nothing(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first")
    second = make_run(tmp_path / "second", recipe=replace(RECIPE, name="fast", optimizer=Adam(lr=0.25)))
    files = write_report([first, second], tmp_path / "report")
    page = files[-1].read_text(encoding="utf-8")
    embedded = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert embedded == [file.read_bytes() for file in files[:-1]]
    assert page.count(" src=") == len(embedded)
    rest = re.sub(r'src="data:image/png;base64,[^"]+"', "", page)
    assert not re.search(r"//| src|href|<script|<link|@import|url\(", rest)
    assert "default-src 'none'; img-src" in page
    assert "prefers-color-scheme: dark" in page
    text = page_text(tmp_path / "report")
    for expected in ("first", "second", "2 runs on mnist", "8 s", "binary weights packed size", "22.0 % 34.6 kB"):
        assert expected in text
    settings = text.partition("Settings that differ")[2].partition("Error")[0]
    assert settings.split() == ["setting", "tiny", "fast", "optimizer.lr", "0.001", "0.25"]


@pytest.mark.usefixtures("no_ink")
def test_seeds_become_one_row_with_mean_and_standard_deviation(tmp_path: Path) -> None:
    accuracies = [0.975, 0.981, 0.984]
    for seed, accuracy in enumerate(accuracies):
        make_run(tmp_path / "all" / f"seed-{seed}", recipe=replace(RECIPE, seed=seed), accuracy=accuracy)
    unfinished = make_run(tmp_path / "unfinished", recipe=replace(RECIPE, name="real"), accuracy=None)
    rows = compare_runs([tmp_path / "all", unfinished])
    assert [(row["label"], row["seeds"]) for row in rows] == [("tiny", [0, 1, 2]), ("real", [0])]
    binary = rows[0]["test"]["binary"]
    assert (binary["n"], binary["accuracies"]) == (3, accuracies)
    assert binary["accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert binary["sd"] == pytest.approx(statistics.stdev(accuracies))
    assert rows[0]["test"].keys() == {"binary", "latent"}
    assert rows[0]["size"] == {"binary": 2200, "weights": 10_000, "bytes": 34_567}
    assert (rows[1]["test"], rows[1]["size"], rows[1]["validation"]["sd"]) == ({}, None, None)
    assert rows[1]["validation"]["accuracy"] == pytest.approx(1 - 0.1 / 3)
    write_report([tmp_path / "all"], tmp_path / "report")
    text = page_text(tmp_path / "report")
    for expected in (
        "98.00 ± 0.46 %",
        "BatchNorm was re-estimated for latent weights",
        "test accuracy, binary test accuracy, latent",
        "seed 0, 1, 2",
        "seed-0, seed-1, seed-2",
        "96.67 ± 0.00 %",
    ):
        assert expected in text


def test_a_seed_counts_once(tmp_path: Path) -> None:
    again = [make_run(tmp_path / "a"), make_run(tmp_path / "a-2")]
    assert [(row["label"], row["seeds"]) for row in compare_runs(again)] == [("tiny, a", [0]), ("tiny, a-2", [0])]
    assert [row["test"]["binary"]["sd"] for row in compare_runs(again)] == [None, None]
    slow = make_run(tmp_path / "b", recipe=replace(RECIPE, optimizer=Adam(lr=0.25)))
    other = make_run(tmp_path / "c", recipe=replace(RECIPE, seed=1))
    rows = compare_runs([*again, slow, other])
    labels = ["tiny, a … c", "tiny, a-2", "tiny, optimizer.lr 0.25"]
    assert [(row["label"], row["seeds"]) for row in rows] == list(zip(labels, [[0, 1], [0], [0]], strict=True))


def test_runs_on_other_data_are_rows_of_their_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, recipe=replace(RECIPE, seed=seed)) for seed, name in enumerate("abcd")]
    for run, digest in zip(runs, ("one", "two", "one", None), strict=True):
        (run / "data.json").write_text(json.dumps({"directory": str(run), **({"digest": digest} if digest else {})}))
    assert [row["seeds"] for row in compare_runs(runs)] == [[0, 2], [1], [3]]
    for run, note in zip(runs, ("", "a copy", "", "a copy"), strict=True):
        (run / "data.json").unlink()
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(result | {"note": note}))
    assert [row["seeds"] for row in compare_runs(runs)] == [[0, 2], [1, 3]]


@pytest.mark.usefixtures("no_ink")
def test_an_unfinished_run_without_recipe_and_validation_is_reported(tmp_path: Path) -> None:
    rows = [row(1, epochs=250, validation_loss=None, validation_error=None, train_error=0.0, train_loss=float("nan"))]
    run = make_run(tmp_path / "own", recipe=None, accuracy=None, rows=rows)
    files = write_report([run], tmp_path / "report")
    assert [file.name for file in files] == ["error.png", "loss.png", "time.png", "index.html"]
    text = page_text(tmp_path / "report")
    assert ("1 of 250" in text, "All settings" in text) == (True, False)


@pytest.mark.usefixtures("no_ink")
def test_unfinished_runs_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [row(epoch, epochs=12) for epoch in (1, 2, 3)]
    runs = [make_run(tmp_path / name, recipe=replace(RECIPE, seed=seed)) for seed, name in enumerate("ab")]
    runs += [
        make_run(tmp_path / name, recipe=replace(RECIPE, seed=seed), rows=rows, accuracy=None)
        for seed, name in ((2, "c"), (3, "d"))
    ]
    found = compare_runs(runs)
    assert [(row["seeds"], row["finished"]) for row in found] == [([0, 1], True), ([2], False), ([3], False)]
    assert [row["validation"]["n"] for row in found] == [2, 1, 1]
    write_report(runs, tmp_path / "report")
    assert page_text(tmp_path / "report").count("3 of 12, unfinished") == 2


@pytest.mark.usefixtures("no_ink")
def test_a_folder_of_seeds_is_its_runs_and_names_and_pictures_are_unique(tmp_path: Path) -> None:
    for seed in (0, 2, 10):
        make_run(tmp_path / "all" / f"seed-{seed}", recipe=replace(RECIPE, seed=seed), accuracy=0.9, weights=True)
    one = make_run(tmp_path / "one" / "run", weights=True, recipe=replace(RECIPE, name="real"))
    two = make_run(tmp_path / "two" / "run", weights=True, recipe=replace(RECIPE, batch_size=7))
    runs = read_runs(find_folders([tmp_path / "all", one, two, one / ".." / "run"])[0])
    assert [run.name for run in runs] == ["all/seed-0", "all/seed-2", "all/seed-10", "one/run", "two/run"]
    names = [file.name for file in write_report([tmp_path / "all", one, two], tmp_path / "report")]
    pictures = [name for name in names if name.startswith("weights")]
    assert pictures == ["weights-all-seed-0.png", "weights-one-run.png", "weights-two-run.png"]
    assert "Weights of all/seed-0, the first of 3 seeds" in page_text(tmp_path / "report")


def test_mean_and_sd_per_epoch() -> None:
    first: list[tuple[int, float | None]] = [(1, 4.0), (2, 1.0)]
    epochs, mean, sd = per_epoch([*first, (1, 2.0), (2, 3.0), (3, 5.0), (1, None), (3, None)])
    assert epochs.tolist() == [1, 2, 3]
    assert mean.tolist() == [3.0, 2.0, 5.0]
    assert sd.tolist() == [pytest.approx(2**0.5), pytest.approx(2**0.5), 0.0]
    assert np.isnan(per_epoch([(1, float("inf"))])[1]).all()


def test_runs_of_one_recipe_with_other_settings_get_different_labels(tmp_path: Path) -> None:
    slow = replace(RECIPE, optimizer=Adam(lr=0.01), seed=4)
    three = replace(RECIPE, batch_size=7, epochs=9, split_seed=3)
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", recipe=slow)]
    groups = group_runs(read_runs(runs))
    assert [group.label for group in groups] == ["tiny, optimizer.lr 0.001", "tiny, optimizer.lr 0.01"]
    assert differing_settings(groups) == ["optimizer.lr"]
    groups = group_runs(read_runs([*runs, make_run(tmp_path / "c", recipe=three)]))
    assert [group.label for group in groups] == ["tiny, a", "tiny, b", "tiny, c"]


@pytest.mark.usefixtures("no_ink")
def test_options_of_a_quantizer_are_settings_that_may_be_missing(tmp_path: Path) -> None:
    options = Mlp(weight_quantizer="concrete_sign", weight_options={"temperature": 0.5})
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", recipe=replace(RECIPE, model=options))]
    differing = differing_settings(group_runs(read_runs(runs)))
    assert "model.weight_options.temperature" in differing
    assert "model.weight_options" not in differing
    for each in ([runs[1]], runs, runs[::-1]):
        write_report(each, tmp_path / "report")
        assert "model.weight_options.temperature" in page_text(tmp_path / "report")


def test_hostile_names_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DPI", 40)
    recipe = replace(
        RECIPE,
        name=HOSTILE.replace("/", ""),  # a name may have no slash
        dataset=HOSTILE,
        loss="a_b$",
        reference=HOSTILE,
        model=Mlp(weight_quantizer=HOSTILE),
    )
    rows = [row(1, validation_weights=HOSTILE)]
    run = make_run(tmp_path / "<b>run $\\frac{$", recipe=recipe, rows=rows, accuracy=None, weights=True)
    score = {"accuracy": 0.5, "correct": 1, "count": 2, "bn": HOSTILE}
    (run / "result.json").write_text(json.dumps({"test": {HOSTILE: score, "\ud800": score}}))
    files = write_report([run, make_run(tmp_path / "日本語\u202e")], tmp_path / "report")
    assert files[3].name == "weights-b-run-frac.png"
    for file in files[:-1]:
        check_picture(file)
    page = files[-1].read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;run" in page
    assert r"日本語\u202e" in page


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.jsonl", b"[" * 100_000),
        ("metrics.jsonl", b"\xff\xfe"),
        ("result.json", b'{"test": {"binary": {"accuracy": "high"}}}'),
        ("best.safetensors", b"12"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path: Path, file: str, content: bytes) -> None:
    run = make_run(tmp_path / "run")
    (run / file).write_bytes(content)
    with pytest.raises((FormatError, UsageError), match=file):
        write_report([run], tmp_path / "report")
    assert not (tmp_path / "report").exists() or not list((tmp_path / "report").iterdir())


def test_folders_that_are_not_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "new", rows=[])
    for folder in (tmp_path / "gone", tmp_path / "new"):
        with pytest.raises((DataError, OSError)):
            write_report([folder], tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("no_ink")
def test_files_of_the_user_are_not_replaced(tmp_path: Path) -> None:
    run, site = make_run(tmp_path / "run"), tmp_path / "site"
    site.mkdir()
    for name in ("index.html", "error.png"):
        (site / name).write_text("<h1>My home page</h1>")
        with pytest.raises(UsageError, match=name):
            write_report([run], site)
        assert [(path.name, path.read_text()) for path in site.iterdir()] == [(name, "<h1>My home page</h1>")]
        (site / name).unlink()
    (site / "notes.txt").write_text("mine")
    first = {path: path.read_bytes() for path in write_report([run], site)}
    assert {path: path.read_bytes() for path in write_report([run], site)} == first
    assert (site / "notes.txt").read_text() == "mine"
