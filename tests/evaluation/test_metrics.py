"""Losses and metrics against scikit-learn, torch and their formulas, written as loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from onebit.data import VOID
from onebit.errors import UnknownNameError, UsageError
from onebit.evaluation.losses import LOSSES, bce, cross_entropy, huber, known_samples, mse, per_sample, with_options
from onebit.evaluation.metrics import (
    DEFAULT_METRICS,
    METRICS,
    chosen_metrics,
    labels_per_sample,
    score_outputs,
    task_of,
)
from onebit.evaluation.modes import evaluate
from onebit.evaluation.scores import Score, values_of, whole_score

OF_CLASSES = [name for name in LOSSES if LOSSES.entry(name).task == "classification"]
MEANS = [name for name in OF_CLASSES if name != "iou"]
"""Losses that are a mean of what each sample costs."""


@pytest.fixture(scope="module")
def sk() -> Any:
    """The metrics of scikit-learn, whose import takes seconds."""
    import sklearn.metrics

    return sklearn.metrics


BY_SKLEARN: dict[str, Callable[[Any, np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda sk, y, t: sk.accuracy_score(t, y.argmax(1)),
    "exact_match": lambda sk, y, t: sk.accuracy_score(t, y > 0),
    "f1": lambda sk, y, t: sk.f1_score(t, y > 0, average="micro"),
    "label_accuracy": lambda sk, y, t: 1 - sk.hamming_loss(t, y > 0),
    "mae": lambda sk, y, t: sk.mean_absolute_error(t, y),
    "mse": lambda sk, y, t: sk.mean_squared_error(t, y),
    "perplexity": lambda sk, costs, t: np.exp(costs.mean()),
    "r2": lambda sk, y, t: sk.r2_score(t, y),
}


def made(task: str, *, count: int = 30, width: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if task == "language":  # costs and tokens
        return outputs[:, 0].exp(), torch.randint(0, width, (count,), generator=generator)
    if task == "classification":
        return outputs, torch.randint(0, width, (count,), generator=generator)
    targets = 5 + outputs + torch.randn(count, width, generator=generator, dtype=torch.float64)
    return (outputs + 5, targets) if task == "regression" else (outputs, (targets > 5).double())


@pytest.mark.parametrize("name", METRICS)
@given(count=st.integers(2, 40), width=st.integers(2, 5), cut=st.integers(1, 39), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_each_metric_is_that_of_scikit_learn_however_the_samples_are_divided(
    sk: Any, name: str, count: int, width: int, cut: int, seed: int
) -> None:
    outputs, targets = made(METRICS[name].task, count=count, width=width, seed=seed)
    expected = BY_SKLEARN[name](sk, outputs.numpy(), targets.numpy())
    bounds = [0, min(cut, count - 1), count]
    parts = []
    for a, b in itertools.pairwise(bounds):
        sums = {name: tuple(METRICS[name].sums(outputs[a:b], targets[a:b]).tolist())}
        parts.append(Score("real", "trained", None, b - a, 0.0, sums=sums))
    assert whole_score(parts).metrics[name] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_r2_of_a_constant_column_and_of_one_far_from_zero(sk: Any) -> None:
    constant = torch.full((4, 1), 3.5, dtype=torch.float64)
    far = 1e5 + torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64)
    near = far + torch.tensor([[0.5], [0.0], [0.0], [0.0]], dtype=torch.float64)
    for outputs, targets, expected in ((constant, constant, 1.0), (constant + 1, constant, 0.0), (near, far, 0.9375)):
        value = values_of({"r2": tuple(METRICS["r2"].sums(outputs, targets).tolist())})["r2"]
        assert value == pytest.approx(expected, abs=1e-4)
        assert value == pytest.approx(sk.r2_score(targets, outputs), abs=1e-4)


def test_losses_of_regression_and_several_labels() -> None:
    outputs, targets = made("regression")
    error = (outputs - targets).numpy()
    assert float(mse(outputs, targets)) == pytest.approx(np.square(error).mean())
    assert float(LOSSES["mae"](outputs, targets)) == pytest.approx(np.abs(error).mean())
    for delta in (0.5, 1.0):
        size = np.abs(error)
        expected = np.where(size <= delta, error**2 / 2, delta * (size - delta / 2)).mean()
        assert float(huber(outputs, targets, delta=delta)) == pytest.approx(expected)
    outputs, targets = made("multi-label")
    p = 1 / (1 + np.exp(-outputs.numpy()))
    t = targets.numpy()
    assert float(bce(outputs, targets)) == pytest.approx(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())


def test_a_column_and_a_vector_are_never_broadcast() -> None:
    name = "mse"
    outputs, targets = torch.randn(6, 1), torch.randn(6)
    expected = LOSSES[name](outputs[:, 0], targets)
    assert torch.equal(LOSSES[name](outputs, targets), expected)
    assert torch.equal(LOSSES[name](outputs[:, 0], targets[:, None]), expected)


def test_each_label_of_a_sequence_is_a_sample() -> None:
    logits, labels = torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert float(LOSSES["cross_entropy"](logits, labels)) == pytest.approx(float(expected))
    assert per_sample(logits, labels)[0].shape == (20, 3)


def example(count: int = 12, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(0, classes, (count,), generator=generator)


def by_loops(name: str, logits: Tensor, labels: Tensor) -> float:
    total, terms = 0.0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if name == "cross_entropy":
            total -= math.log(math.exp(row[label]) / sum(map(math.exp, row)))
            terms += 1
            continue
        for c, y in enumerate(row):
            margin = max(0.0, 1 - (1 if c == label else -1) * y)
            total += margin**2 if name == "squared_hinge" else margin
            terms += 1
    return total / terms


@pytest.mark.parametrize("name", MEANS)
def test_each_loss_is_its_formula(name: str) -> None:
    logits, labels = example()
    assert float(LOSSES[name](logits, labels)) == pytest.approx(by_loops(name, logits, labels), rel=1e-12)


@pytest.mark.parametrize("name", MEANS)
def test_class_weights_multiply_what_each_sample_costs(name: str) -> None:
    logits, labels = example()
    weights = [0.0, 2.5, 1.0, 0.5, 3.0]
    each = [weights[y] * by_loops(name, x[None], y[None]) for x, y in zip(logits, labels, strict=True)]
    found = LOSSES[name](logits, labels, class_weights=weights)
    assert float(found) == pytest.approx(sum(each) / len(each), rel=1e-12)
    with pytest.raises(UsageError, match="class_weights"):
        LOSSES[name](logits, labels, class_weights=weights[1:])


@pytest.mark.parametrize("name", OF_CLASSES)
def test_samples_with_the_ignored_label_do_not_count(name: str) -> None:
    logits, labels = example()
    torch.manual_seed(0)
    masks = torch.randint(0, 5, (2, 4, 4), dtype=torch.uint8)
    masks[0, 0, 0], masks[0, 0, 1], labels[0], (sequences := torch.randint(0, 5, (4, 6)))[0, 0] = VOID, 2, 2, 2
    for outputs, targets, ignored in (
        (logits, labels, 2),
        (logits, torch.where(labels == 2, -100, labels), -100),
        (torch.randn(4, 5, 6), sequences, 2),
        (torch.randn(2, 5, 4, 4), masks, 2),
    ):
        kept = per_sample(outputs, targets, ignored)
        assert 0 < len(kept[1]) < len(per_sample(outputs, targets)[1])
        assert ignored not in kept[1]
        assert torch.equal(LOSSES[name](outputs, targets, ignore_index=ignored), LOSSES[name](*kept))
        assert known_samples(outputs, targets, ignored) == len(kept[1])
    assert LOSSES[name](logits, torch.full((12,), 2), ignore_index=2) == 0


def test_soft_targets_are_those_of_torch() -> None:
    logits, labels = example()
    soft = torch.rand(12, 5, dtype=torch.float64).softmax(dim=1)
    weights = torch.tensor([0.5, 2.5, 1.0, 0.5, 3.0], dtype=torch.float64)
    for smoothing in (0.0, 0.2):
        expected = torch.nn.functional.cross_entropy(logits, soft, weights, label_smoothing=smoothing)
        found = cross_entropy(logits, soft, class_weights=weights.tolist(), label_smoothing=smoothing)
        assert float(found) == pytest.approx(float(expected), rel=1e-12)
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    for name in ("cross_entropy", "iou"):
        torch.testing.assert_close(LOSSES[name](logits, one_hot), LOSSES[name](logits, labels))
    for name in ("hinge", "squared_hinge"):
        with pytest.raises(UsageError, match="probabilities"):
            LOSSES[name](logits, soft)
    score = score_outputs(logits, soft, loss="cross_entropy", metrics={}, weights="real", bn="trained")
    assert score.correct == int((logits.argmax(1) == soft.argmax(1)).sum())
    assert score.loss == pytest.approx(float(cross_entropy(logits, soft)))


def test_a_score_leaves_the_ignored_label_out() -> None:
    logits, labels = example()
    loss = with_options("hinge", ignore_index=2)
    about: dict[str, Any] = {
        "metrics": chosen_metrics("accuracy", "classification"),
        "weights": "real",
        "bn": "trained",
    }
    score = score_outputs(logits, labels, loss=loss, **about)
    assert score == score_outputs(logits[labels != 2], labels[labels != 2], loss="hinge", **about)
    assert score.count == int((labels != 2).sum())
    assert score.metrics["accuracy"] == score.accuracy
    model = torch.nn.Identity()
    assert evaluate(model, (logits, labels), loss="hinge", ignore_index=2).count == score.count


def test_a_classification_has_the_scores_of_each_class(sk: Any) -> None:
    logits, labels = example(60, 5)
    logits[:, 4] -= 99  # a class that is never predicted
    about: dict[str, Any] = {"loss": "cross_entropy", "metrics": {}, "weights": "real", "bn": "trained"}
    score = score_outputs(logits, labels, **about)
    truth, found = labels.numpy(), logits.argmax(1).numpy()
    assert np.array_equal(score.classes["confusion"], sk.confusion_matrix(truth, found))
    f1 = sk.f1_score(truth, found, average=None, zero_division=0)
    recall = sk.recall_score(truth, found, average=None, zero_division=0)
    assert score.classes["class_f1"] == pytest.approx(f1)
    assert score.classes["class_accuracy"] == pytest.approx(recall)
    assert score.classes["f1"] == pytest.approx(f1.mean())
    assert score.classes["accuracy"] == score.accuracy
    assert score.as_dict().items() >= score.classes.items()
    assert score.mean_iou is None
    parts = [score_outputs(logits[part], labels[part], **about) for part in (slice(0, 21), slice(21, 60))]
    assert whole_score(parts).classes == score.classes


@pytest.mark.parametrize(
    ("classes", "counted", "stored"), [(100, True, True), (101, True, False), (1001, False, False)]
)
def test_confusions_of_many_classes_are_bounded(classes: int, counted: bool, stored: bool) -> None:
    logits, labels = torch.eye(classes)[:7], torch.arange(7)
    score = score_outputs(logits, labels, loss="cross_entropy", metrics={}, weights="real", bn="trained")
    assert score.correct == 7
    assert ("class_f1" in score.as_dict(), "confusion" in score.as_dict()) == (counted, stored)
    if counted:
        assert score.classes["class_accuracy"][6:8] == [1.0, None]  # the last one does not occur
        assert score.classes["f1"] == 1


def test_label_smoothing_mixes_in_the_uniform_target() -> None:
    logits, labels = example()
    uniform = -logits.log_softmax(1).mean()
    expected = 0.9 * cross_entropy(logits, labels) + 0.1 * uniform
    assert float(cross_entropy(logits, labels, label_smoothing=0.1)) == pytest.approx(float(expected))


def test_iou_is_one_minus_the_mean_soft_jaccard_index() -> None:
    logits, labels = torch.randn(7, 3), torch.tensor([0, 1, 1, 0, 2, 1, 0])
    p, t = logits.softmax(1), torch.eye(3)[labels]
    expected = 1 - sum(float((p * t)[:, k].sum() / (p + t - p * t)[:, k].sum()) for k in range(3)) / 3
    assert float(LOSSES["iou"](logits, labels)) == pytest.approx(expected, rel=1e-5)
    perfect = 100 * t - 50
    assert float(LOSSES["iou"](perfect, labels)) == pytest.approx(0, abs=1e-6)
    index = [float((p * t)[:, k].sum() / (p + t - p * t)[:, k].sum()) for k in range(3)]
    weighted = 1 - sum(w * each for w, each in zip((2, 0, 1), index, strict=True)) / 3
    assert float(LOSSES["iou"](logits, labels, class_weights=(2, 0, 1))) == pytest.approx(weighted, rel=1e-5)
    assert torch.autograd.gradcheck(LOSSES["iou"], (logits.double().requires_grad_(), labels))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_the_loss_of_masks_is_that_of_their_pixels(name: str) -> None:
    logits, masks = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 8, 6), dtype=torch.uint8)
    masks[0, 3, 2] = VOID
    center = masks[:, 2:6, 1:5]
    known = center != VOID
    rows = logits.permute(0, 2, 3, 1)[known]
    assert torch.equal(LOSSES[name](logits, masks), LOSSES[name](rows, center[known].long()))
    found, labels = per_sample(logits, masks)
    assert torch.equal(found, rows)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("name", OF_CLASSES)
def test_masks_of_only_void_pixels_have_no_loss_and_no_gradient(name: str) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((2, 4, 4), VOID, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_masks_have_no_class_with_the_number_of_void() -> None:
    masks = torch.tensor([[[3, VOID]]])
    assert per_sample(torch.zeros(1, VOID, 1, 2), masks)[1].tolist() == [3]
    with pytest.raises(UsageError, match="256"):
        per_sample(torch.zeros(1, VOID + 1, 1, 2), masks)


F, L = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("name", "outputs", "targets"),
    [
        ("cross_entropy", F, F),
        ("cross_entropy", F[:, 0], L),
        ("mse", F, F[:, 0]),
        ("bce", F, F[:, :2]),
        ("huber", F, F[:3]),
    ],
)
def test_targets_of_other_shapes_or_types_are_refused(name: str, outputs: Tensor, targets: Tensor) -> None:
    with pytest.raises(UsageError):
        LOSSES[name](outputs, targets)


def test_the_task_of_each_loss() -> None:
    tasks = {LOSSES.entry(name).task for name in LOSSES}
    assert tasks == {metric.task for metric in METRICS.values()} == {*DEFAULT_METRICS, "classification"}
    assert task_of("mse") == task_of(mse) == "regression"
    assert task_of("bce") == "multi-label"
    assert task_of(torch.nn.functional.mse_loss) is None


def test_metrics_are_chosen_by_name_and_function() -> None:
    assert list(chosen_metrics(None, "regression")) == ["r2", "mae"]
    assert list(chosen_metrics(None, "multi-label")) == ["f1", "exact_match"]
    assert chosen_metrics(None, "classification") == chosen_metrics(None, None) == {}

    def worst(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().max()

    assert list(chosen_metrics(["mae", worst], "regression")) == ["mae", "worst"]

    def mae(outputs: Tensor, targets: Tensor) -> float:
        return 7.0

    metrics = chosen_metrics(["mae", mae], None)
    score = score_outputs(*made("regression"), loss="mse", metrics=metrics, weights="real", bn="trained")
    assert score.metrics["own mae"] == 7.0 != score.metrics["mae"]
    several = [lambda outputs, targets: 1.0, lambda outputs, targets: 2.0, mae, mae]
    assert list(chosen_metrics(several, None)) == ["<lambda>", "<lambda> 2", "own mae", "own mae 2"]
    with pytest.raises(UnknownNameError, match="r2"):
        chosen_metrics("r22", "regression")
    with pytest.raises(UsageError, match="accuracy"):
        chosen_metrics("accuracy", "regression")


def test_a_score_without_classes_has_no_accuracy() -> None:
    outputs, targets = made("regression")
    metrics = chosen_metrics(None, "regression")

    def score(part: slice) -> Score:
        return score_outputs(outputs[part], targets[part], loss="mse", metrics=metrics, weights="real", bn="trained")

    whole, joined = score(slice(None)), whole_score([score(slice(11)), None, score(slice(11, None))])
    assert joined.loss == pytest.approx(whole.loss)
    assert joined.metrics == pytest.approx(whole.metrics)
    assert joined.count == 30
    for ask in ("accuracy", "error", "ece"):
        with pytest.raises(UsageError):
            getattr(whole, ask)
    assert set(whole.as_dict()) == {"weights", "bn", "count", "loss", "metrics"}
    assert str(whole).startswith(f"loss {whole.loss:.4f}  r2 {whole.metrics['r2']:.4f}  mae ")


def test_the_number_of_labels_of_a_sample() -> None:
    labels = torch.zeros(4, dtype=torch.long)
    assert labels_per_sample(labels, "classification") == labels_per_sample(None, None) == 1
    assert labels_per_sample(torch.zeros(4, 6, 5, dtype=torch.long), "classification") == 30  # pixels
    assert labels_per_sample(torch.zeros(4, 3), "classification") == 1  # probabilities of classes
    assert labels_per_sample(torch.zeros(4, 3, 6, 5), "classification") == 30
    assert labels_per_sample((torch.zeros(4, 3), labels), "regression") == 3
    assert labels_per_sample(torch.zeros(4, 0), "regression") == 1
