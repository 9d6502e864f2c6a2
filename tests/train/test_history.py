"""The record of a run and its best epoch."""

from __future__ import annotations

import dataclasses
import json

from onebit.common.text import NetSize
from onebit.train.history import History, epoch_lines
from support.report_runs import row

ROW = row(1, train_loss=0.5, train_error=0.125, validation_loss=0.25, validation_error=0.0625)


def rows(*errors: float | None) -> History:
    return History([dataclasses.replace(ROW, epoch=i, validation_error=e) for i, e in enumerate(errors, 1)])


def test_the_best_epoch_is_the_first_with_the_lowest_validation_error() -> None:
    assert rows(0.3, 0.1, 0.2, 0.1).best.epoch == 2
    assert rows(0.3, 0.0).best.epoch == 2
    assert rows(None, None).best.epoch == 2
    assert str(ROW).startswith("epoch 1/3  loss 0.5000  train error 12.50 %")


def test_the_first_epoch_with_the_highest_mean_iou_comes_before_a_lower_error() -> None:
    scores = ((0.5, 0.3), (0.75, 0.2), (0.75, 0.1), (0.625, 0.0))
    masks = [
        dataclasses.replace(ROW, epoch=i, validation_mean_iou=m, validation_error=e)
        for i, (m, e) in enumerate(scores, 1)
    ]
    assert History(masks).best.epoch == 2


def test_a_nan_validation_loss_is_never_the_best() -> None:
    unclassed = dataclasses.replace(ROW, train_error=None, validation_error=None)
    nan = float("nan")
    for losses, best in (((nan, 0.3, 0.2, nan), 3), ((0.3, nan, 0.3), 1), ((nan, nan), 2)):
        history = History([dataclasses.replace(unclassed, epoch=i, validation_loss=x) for i, x in enumerate(losses, 1)])
        assert history.best.epoch == best


def test_a_line_per_epoch_that_reads_back() -> None:
    history = rows(0.5, None)
    lines = history.to_jsonl().splitlines()
    assert len(lines) == len(history) == 2
    assert json.loads(lines[1])["validation_error"] is None
    assert History.from_rows(lines) == History.from_rows(history.texts) == history
    assert History().to_jsonl() == ""


def test_a_long_history_prints_the_first_the_best_and_the_last_epochs() -> None:
    errors = [0.5 - 0.01 * epoch if epoch != 20 else 0.1 for epoch in range(30)]
    history = rows(*errors)
    lines = str(history).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["1", "2", "3", "…", "21", "…", "28", "29", "30"]
    assert "30 epochs, 60.0 s; best: epoch 21, validation error 10.00 %" in lines[-1]
    history.precision = "bf16"
    assert "bf16" in str(history).splitlines()[-1]
    assert len(str(rows(*errors[:10])).splitlines()) == 12
    history.size = NetSize(22, 100, 1234)
    assert str(history).splitlines()[-1] == str(history.size)
    assert "22.0 %" in repr(history)
    assert max(map(len, lines[:-1])) <= 80


def test_progress_lines_are_aligned_within_80_characters() -> None:
    several = {"validation_metrics": {"f1": 0.5, "top_5_share_of_mine": 0.25}, "best": 0.0625, "epochs": 100}
    epochs = [
        dataclasses.replace(ROW, epoch=epoch, train_error=error, **several)
        for epoch, error in ((1, 0.75), (2, 0.05), (100, 0.0625))
    ]
    first, *others = [epoch_lines(epochs[:done]) for done in (1, 2, 3)]
    head, line = first[:-1], first[-1]
    assert line.split()[:3] == ["1/100", "0.5000", "75.00"]
    assert all(len(lines) == 1 and len(lines[0]) == len(line) for lines in others)
    assert max(map(len, [*head, line])) <= 80
    assert head[-1].split()[:2] == ["epoch", "loss"]


def test_rows_without_classes_have_a_loss_and_metrics() -> None:
    plain = dataclasses.replace(ROW, train_error=None, validation_error=None, train_metrics={"r2": 0.5})
    history = History()
    for epoch, loss in enumerate((3.0, 1.5, 2.0), 1):
        history.add(dataclasses.replace(plain, epoch=epoch, validation_loss=loss, validation_metrics={"r2": 1 - loss}))
    assert (history.best.epoch, history.rows[-1].best) == (2, 1.5)
    assert History.from_rows(history.texts) == history
    assert "validation loss" in str(history)
    assert "error" not in str(history)
    assert "r2" in str(history).splitlines()[0]
