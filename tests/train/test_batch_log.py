"""Loss and accuracy of batches while an epoch runs."""

from __future__ import annotations

import pytest

from onebit.train.step import BatchLog, BatchWatch
from support.toy_training import DATA, Case, build


def test_every_nth_batch_and_the_last_one_are_logged() -> None:
    rows: list[BatchLog] = []
    history = build(Case()).fit(DATA, epochs=2, batch_watch=BatchWatch(3, rows.append))
    steps = rows[-1].batches
    expected = sorted({*range(3, steps + 1, 3), steps})
    assert [(row.epoch, row.batch) for row in rows] == [(epoch, i) for epoch in (1, 2) for i in expected]
    assert all(0 <= row.accuracy <= 1 and row.loss > 0 for row in rows)
    assert f"epoch 1, step 3/{steps}: loss " in str(rows[0])
    assert len(history) == 2


def test_the_mean_over_all_batches_is_that_of_the_epoch() -> None:
    rows: list[BatchLog] = []
    (row,) = build(Case()).fit(DATA, epochs=1, batch_watch=BatchWatch(1, rows.append))
    whole = len(DATA.train) % len(rows) == 0
    assert sum(log.loss for log in rows) / len(rows) == pytest.approx(row.train_loss, rel=1e-5 if whole else 0.2)


def test_watching_changes_nothing() -> None:
    watch = BatchWatch(1, lambda row: None)
    watched, alone = (build(Case()).fit(DATA, epochs=1, batch_watch=each) for each in (watch, None))
    assert [row.train_loss for row in watched] == [row.train_loss for row in alone]
