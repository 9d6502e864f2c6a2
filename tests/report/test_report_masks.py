"""Reports of runs that give a class to each pixel: mean IoU and Dice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onebit.report import compare_runs, plot_history, read_groups, write_report
from onebit.report.curves import draw_panel
from onebit.report.tables import report_tables
from onebit.train.history import History
from support.report_runs import RECIPE, check_picture, history_group, make_run, page_text, row

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
