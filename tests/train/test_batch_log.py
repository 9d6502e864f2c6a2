"""Loss and precision of batches while an epoch runs."""

from __future__ import annotations

import math

import pytest
import torch
from toy_training import DATA, Case, build

from onebit.evaluation.scores import score_logits
from onebit.train.batch_log import BatchLog, BatchWatch, top5_correct


def test_five_largest_are_counted() -> None:
    logits = torch.arange(8.0).repeat(8, 1)  # class 3 is the fifth largest
    assert int(top5_correct(logits, torch.arange(8))) == 5
    assert int(top5_correct(logits[:, :4], torch.arange(4).repeat(2))) == 8  # fewer classes than five
    masks = torch.full((2, 3, 3), 7)
    assert int(top5_correct(torch.zeros(2, 8, 3, 3).index_fill_(1, torch.tensor([7]), 1.0), masks)) == 18


def test_a_batch_and_the_mean_so_far() -> None:
    rows: list[BatchLog] = []
    watch = BatchWatch(2, rows.append)
    watch.begin()
    losses, right, counts = [1.0, 4.0, 2.0], [(1, 2), (2, 4), (0, 1)], [4, 4, 2]
    for i, (loss, found, count) in enumerate(zip(losses, right, counts, strict=True), start=1):
        correct = torch.tensor(found, dtype=torch.float64)
        watch.add(3, i, 3, loss=torch.tensor(loss), correct=correct, count=count)
    assert [(row.epoch, row.batch, row.batches) for row in rows] == [(3, 2, 3), (3, 3, 3)]
    assert rows[0].loss == (4.0, 2.5)
    assert rows[1].loss == pytest.approx((2.0, 2.4))
    assert rows[1].precision1 == pytest.approx((0.0, 30.0))
    assert rows[1].precision5 == pytest.approx((50.0, 70.0))
    assert all(math.isfinite(seconds) and seconds > 0 for row in rows for seconds in row.seconds)
    assert "Epoch: [3][2/3]  Time " in str(rows[0])
    assert "Loss 4 (2.5)  Prec@1 50 (37.5)  Prec@5 100 (75)" in str(rows[0])


def test_the_last_batch_of_an_epoch_has_the_numbers_of_its_row() -> None:
    rows: list[BatchLog] = []
    history = build(Case()).fit(DATA, epochs=2, batch_watch=BatchWatch(1000, rows.append))
    assert [row.epoch for row in rows] == [1, 2]
    for row, log in zip(history, rows, strict=True):
        assert log.loss[1] == pytest.approx(row.train_loss, rel=1e-5)
        assert log.precision1[1] == pytest.approx(100 * (1 - row.train_error))
        assert row.train_error5 is not None
        assert log.precision5[1] == pytest.approx(100 * (1 - row.train_error5))
        assert row.validation_error5 is not None


def test_watching_changes_nothing() -> None:
    watched, alone = (build(Case()).fit(DATA, epochs=1, batch_watch=watch) for watch in (BatchWatch(1), None))
    assert [row.train_loss for row in watched] == [row.train_loss for row in alone]
    assert [row.train_error5 for row in alone] == [None]


def test_a_score_has_no_top_5_where_nobody_counted_it() -> None:
    logits, labels = torch.randn(6, 7), torch.arange(6)
    score = score_logits(logits, labels, loss="cross_entropy", weights="real", bn="trained")
    assert score.error5 is None
    assert "top5" not in score.as_dict()
