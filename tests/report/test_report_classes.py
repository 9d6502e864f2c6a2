"""The scores of each class in reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onebit.errors import FormatError
from onebit.report import read_groups, write_report
from onebit.report.tables import class_table, class_tables
from support.report_runs import RECIPE, make_run, page_text

pytestmark = pytest.mark.usefixtures("no_ink")
SCORES = {"class_accuracy": [0.75, 1.0, None], "class_f1": [0.8, 0.5, None]}
CONFUSION = [[3, 1, 0], [0, 1200, 0], [0, 0, 0]]


def classes_run(folder: Path, *, seed: int = 0, names: Any = ("cat", "<b>", "none"), **scores: Any) -> Path:
    run = make_run(folder, recipe=replace(RECIPE, seed=seed))
    result = json.loads((run / "result.json").read_text()) | {"classes": names}
    result["test"]["binary"] |= SCORES | {"confusion": CONFUSION} | scores
    (run / "result.json").write_text(json.dumps(result))
    return run


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
