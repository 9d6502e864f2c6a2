"""Entropy and calibration error against the formulas, written down plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.evaluation import scores
from onebit.evaluation.scores import BINS, calibration_error, confidence_gaps


def by_the_book(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Equation 3 of Guo et al. and the entropy, one prediction at a time."""
    members: dict[int, list[tuple[bool, float]]] = {}
    entropy = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        powers = [math.exp(number - max(row)) for number in row]
        p = [power / sum(powers) for power in powers]
        entropy -= sum(q * math.log(q) for q in p if q)
        members.setdefault(math.ceil(max(p) * BINS), []).append((p.index(max(p)) == label, max(p)))
    total = 0.0
    for found in members.values():
        accuracy = sum(right for right, _ in found) / len(found)
        confidence = sum(sure for _, sure in found) / len(found)
        total += len(found) / len(labels) * abs(accuracy - confidence)
    return entropy / len(labels), total


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), classes=st.integers(1, 12), scale=st.floats(0.01, 30))
def test_both_follow_their_formulas(seed: int, count: int, classes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = scale * rng.standard_normal((count, classes)), rng.integers(0, classes, count)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scores, "ROWS", 7)  # predictions are taken in parts
        correct, entropy, gaps = confidence_gaps(logits, labels)
    assert correct == int((logits.argmax(1) == labels).sum())
    assert (entropy, calibration_error(gaps, count)) == pytest.approx(by_the_book(logits, labels), abs=1e-9)
    assert 0 <= entropy <= math.log(classes) + 1e-12


@pytest.mark.parametrize(
    ("logits", "label", "entropy", "ece"),
    [
        ([0.0, 0.0], 0, math.log(2), 0.5),  # as often right as not, sure by one half: bin 8, ended by 8/15
        ([0.0, -math.inf], 0, 0.0, 0.0),  # sure and right
        ([0.0, -math.inf], 1, 0.0, 1.0),  # sure and wrong
        ([1e4, -1e4], 0, 0.0, 0.0),
    ],
)
def test_the_ends_of_the_scale(logits: list[float], label: int, entropy: float, ece: float) -> None:
    _, found, gaps = confidence_gaps(np.array([logits]), np.array([label]))
    assert (found, calibration_error(gaps, 1)) == pytest.approx((entropy, ece))
    assert len(gaps) == BINS


@pytest.mark.parametrize(("classes", "index"), [(1, 14), (3, 4), (15, 0)])
def test_a_confidence_at_an_edge_belongs_to_the_bin_below(classes: int, index: int) -> None:
    _, _, gaps = confidence_gaps(np.zeros((1, classes)), np.array([classes]))  # a wrong answer
    assert np.flatnonzero(gaps).tolist() == [index]


def test_nan_logits_give_nan_without_a_warning() -> None:
    _, entropy, gaps = confidence_gaps(np.full((2, 3), np.nan), np.array([0, 1]))
    assert math.isnan(entropy)
    assert math.isnan(calibration_error(gaps, 2))
