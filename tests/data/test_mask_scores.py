"""Counts of pixels, and tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score, jaccard_score

from onebit.data import VOID, Split, Tiling, by_pixel, confusion_matrix, fitted, is_counted, mask_facts, pixel_score
from onebit.data.tiles import mirrored


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 9, 7))
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 3, truth.shape))
    counts = confusion_matrix(truth, predicted, classes=3)
    assert np.array_equal(counts, sklearn_confusion(truth.ravel(), predicted.ravel()))
    score = pixel_score(counts)
    both = truth.ravel(), predicted.ravel()
    assert score.accuracy == pytest.approx((truth == predicted).mean())
    assert score.iou == pytest.approx(jaccard_score(*both, average=None))
    assert score.dice == pytest.approx(f1_score(*both, average=None))
    assert score.mean_iou == pytest.approx(jaccard_score(*both, average="macro"))
    assert score.mean_dice == pytest.approx(f1_score(*both, average="macro"))
    assert mask_facts(counts)["confusion"] == counts.tolist()


def test_void_pixels_and_classes_that_do_not_occur_do_not_count() -> None:
    counts = confusion_matrix([0, 0, VOID, 1], [0, 1, 1, 1], classes=3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    score = pixel_score(counts)
    assert np.isnan(score.iou[2])
    assert score.mean_iou == 0.5
    assert score.mean_dice == pytest.approx((2 / 3 + 2 / 3) / 2)
    facts = mask_facts(counts)
    assert facts["class_iou"] == [0.5, 0.5, None]  # which JSON has a word for
    assert facts["class_dice"] == [*score.dice[:2], None]
    assert (facts["mean_iou"], facts["dice"]) == (score.mean_iou, score.mean_dice)
    assert np.isnan(pixel_score(np.zeros((2, 2))).mean_iou)
    assert [is_counted(np.array(labels)) for labels in ([3], [], [[VOID, 0]], [[VOID, VOID]])] == [1, 0, 1, 0]


def test_samples_are_pixels() -> None:
    logits = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    labels = np.array([[[0, VOID], [1, 2]], [[VOID] * 2] * 2], np.uint8)
    rows, classes = by_pixel(logits, labels)
    assert rows.tolist() == [[0, 4, 8], [2, 6, 10], [3, 7, 11]]
    assert classes.tolist() == [0, 1, 2]
    assert by_pixel(logits, np.array([1, 2]))[0] is logits


def test_a_line_goes_on_mirrored_at_its_ends() -> None:
    assert mirrored(np.arange(-4, 9), 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert mirrored(np.arange(-2, 3), 1).tolist() == [0] * 5
    padded = np.pad(np.arange(4), 3, mode="reflect")
    assert np.array_equal(padded, mirrored(np.arange(-3, 7), 4))


sides = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(st.tuples(sides, sides), st.tuples(st.integers(8, 24), st.integers(8, 24)), st.sampled_from([0, 2, 6]))
def test_tiles_are_put_together_again_and_count_each_pixel_once(
    image: tuple[int, int], made: tuple[int, int], lost: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (2, 3, *image), dtype=np.uint8)
    tiling = Tiling(image, (made[0] + lost, made[1] + lost), made)
    tiles = tiling.cut(pixels)
    border = lost // 2
    inner = tiles[:, :, border : border + made[0], border : border + made[1]]
    assert np.array_equal(tiling.join(inner), pixels)
    masks = tiling.cut_masks(pixels[:, 0])
    assert len(masks) == len(tiles)
    known = masks != VOID
    assert known.sum() == pixels[:, 0].size
    assert np.array_equal(masks[known], inner[:, 0][known])


def test_a_net_that_sees_all_it_predicts_keeps_away_from_cuts() -> None:
    assert Tiling((64, 64), (64, 64), (64, 64)).spans(0) == [(0, 0, 64)]
    assert Tiling((100, 64), (64, 64), (64, 64)).spans(0) == [(0, 0, 44), (36, 44, 100)]
    assert Tiling((700, 700), (572, 572), (388, 388)).spans(1) == [(0, 0, 312), (312, 312, 700)]


def test_a_split_of_the_size_of_the_net_stays_as_it_is() -> None:
    split = Split(np.zeros((2, 1, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8))
    assert fitted(split, (1, 8, 8), (2, 8, 8)) is split
    tiles = fitted(split, (1, 12, 12), (2, 4, 4))
    assert tiles.images.shape == (8, 1, 12, 12)
    assert tiles.labels.shape == (8, 4, 4)
