"""Scores of classes and of masks in reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onebit.errors import FormatError
from onebit.report import compare_runs, plot_history, read_groups, write_report
from onebit.report.curves import draw_panel
from onebit.report.tables import class_table, class_tables, report_tables
from onebit.train.history import History
from support.report_runs import RECIPE, check_picture, history_group, make_run, page_text, row

SCORES = {"class_accuracy": [0.75, 1.0, None], "class_f1": [0.8, 0.5, None]}
CONFUSION = [[3, 1, 0], [0, 1200, 0], [0, 0, 0]]


def classes_run(folder: Path, *, seed: int = 0, names: Any = ("cat", "<b>", "none"), **scores: Any) -> Path:
    run = make_run(folder, recipe=replace(RECIPE, seed=seed))
    result = json.loads((run / "result.json").read_text()) | {"classes": names}
    result["test"]["binary"] |= SCORES | {"confusion": CONFUSION} | scores
    (run / "result.json").write_text(json.dumps(result))
    return run


@pytest.mark.usefixtures("no_ink")
def test_the_page_has_the_scores_and_the_confusions_of_each_class(tmp_path: Path) -> None:
    write_report([classes_run(tmp_path / "run")], tmp_path / "report")
    text = page_text(tmp_path / "report")
    assert "class accuracy F1 cat <b> none cat 0.7500 0.8000 3 1 0 <b> 1.0000 0.5000 0 1,200 0" in text
    assert "none – – 0 0 0" in text


def test_over_seeds_scores_are_means_and_confusions_are_sums(tmp_path: Path) -> None:
    runs = [classes_run(tmp_path / "0"), classes_run(tmp_path / "1", seed=1, class_accuracy=[0.25, 1.0, None])]
    (made,) = class_tables(read_groups(runs))
    assert made.rows[0] == ["cat", "0.5000 ± 0.3536", "0.8000 ± 0.0000", "6", "2", "0"]
    assert made.rows[2][:3] == ["none", "–", "–"]


def test_what_does_not_fit_is_left_out_or_refused(tmp_path: Path) -> None:
    assert class_tables(read_groups([make_run(tmp_path / "old")])) == []
    (short,) = class_tables(read_groups([classes_run(tmp_path / "a", names=["x"], confusion=[[1, 2]])]))
    assert [row[0] for row in short.rows] == ["0", "1", "2"]
    assert short.head == ["class", "accuracy", "F1"]
    assert class_tables(read_groups([classes_run(tmp_path / "b", class_f1=[0.5])])) == []
    with pytest.raises(FormatError):
        read_groups([classes_run(tmp_path / "c", class_f1=["much"])])


def test_masks_have_their_own_scores_and_many_classes_no_columns() -> None:
    made = class_table("", [{"class_iou": [0.5, 0.25], "class_dice": [0.7, 0.4], "confusion": [[1, 2], [3, 4]]}], ())
    assert made.head == ["class", "IoU", "Dice", "0", "1"]
    many = {"class_accuracy": [1.0] * 21, "class_f1": [1.0] * 21, "confusion": [[0] * 21] * 21}
    made = class_table("", [many], ())
    assert len(made.head) == 3


# ---------------------------------------------------------------------------------------------------------------- masks
ROWS = [row(epoch, validation_mean_iou=iou) for epoch, iou in ((1, 0.5), (2, 0.75), (3, 0.7))]


def masks_run(folder: Path, *, seed: int = 0, mean_iou: Any = 0.8, tested: bool = True, name: str = "masks") -> Path:
    """A run folder of masks whose best epoch is the second; the third has the lowest error."""
    run = make_run(folder, recipe=replace(RECIPE, name=name, seed=seed), rows=ROWS, accuracy=0.9 if tested else None)
    if tested:
        result = json.loads((run / "result.json").read_text())
        for score in result["test"].values():
            score |= {"mean_iou": mean_iou, "dice": 0.875}
        (run / "result.json").write_text(json.dumps(result))
    return run


@pytest.mark.usefixtures("no_ink")
def test_mean_iou_has_a_curve_and_a_table(tmp_path: Path) -> None:
    files = write_report([masks_run(tmp_path / "run")], tmp_path / "report")
    assert [file.name for file in files] == ["error.png", "mean-iou.png", "loss.png", "time.png", "index.html"]
    text = page_text(tmp_path / "report")
    assert "Masks recipe images weights mean IoU Dice masks validation binary 0.7500 –" in text
    assert "masks test binary 0.8000 0.8750" in text
    assert "masks test latent 0.8000 0.8750" in text


def test_over_seeds_it_is_mean_and_standard_deviation(tmp_path: Path) -> None:
    for seed, mean_iou in enumerate((0.7, 0.8, 0.9)):
        masks_run(tmp_path / "all" / f"seed-{seed}", seed=seed, mean_iou=mean_iou)
    other = make_run(tmp_path / "other", recipe=replace(RECIPE, name="classes"))
    compared, table = report_tables(read_groups([tmp_path / "all", other]))
    assert len(compared.rows) == 2
    assert table.rows == [
        ["masks", "validation", "binary", "0.7500 ± 0.0000", "–"],
        ["masks", "test", "binary", "0.8000 ± 0.1000", "0.8750 ± 0.0000"],
        ["masks", "test", "latent", "0.8000 ± 0.1000", "0.8750 ± 0.0000"],
    ]
    masks, classes = compare_runs([tmp_path / "all", other])
    assert "masks" not in classes
    assert masks["masks"][0] == {
        "split": "validation",
        "weights": "binary",
        "mean_iou": {"mean": 0.75, "sd": 0.0, "n": 3, "values": [0.75] * 3},
    }
    assert masks["masks"][1]["mean_iou"]["sd"] == pytest.approx(0.1)
    assert masks["masks"][1]["dice"]["mean"] == 0.875


def test_the_picture_marks_the_best_epoch_and_shows_the_runs_that_have_it(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    draw_panel(axes, [history_group(ROWS)], "mean IoU")
    line, best = axes.get_lines()
    assert line.get_ydata() == pytest.approx([0.5, 0.75, 0.7])
    assert (best.get_xdata(), best.get_ydata()) == ([2], [0.75])
    write_report([masks_run(tmp_path / "a", tested=False), make_run(tmp_path / "b")], tmp_path / "report")
    assert check_picture(tmp_path / "report" / "mean-iou.png")[0] == 1200
    plot_history(History(ROWS), tmp_path / "curves.png")  # a panel more
    assert check_picture(tmp_path / "curves.png")[0] == 2220
