"""Losses and metrics of regression and of several labels against scikit-learn, torch and their formulas."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from onebit.errors import UnknownNameError, UsageError
from onebit.evaluation.losses import LOSSES, bce, huber, mse, per_sample
from onebit.evaluation.metrics import METRICS, chosen_metrics, labels_per_sample, score_outputs, task_of
from onebit.evaluation.scores import Score, values_of, whole_score

BY_SKLEARN: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda y, t: sklearn.metrics.accuracy_score(t, y.argmax(1)),
    "exact_match": lambda y, t: sklearn.metrics.accuracy_score(t, y > 0),
    "f1": lambda y, t: sklearn.metrics.f1_score(t, y > 0, average="micro"),
    "label_accuracy": lambda y, t: 1 - sklearn.metrics.hamming_loss(t, y > 0),
    "mae": lambda y, t: sklearn.metrics.mean_absolute_error(t, y),
    "mse": lambda y, t: sklearn.metrics.mean_squared_error(t, y),
    "r2": lambda y, t: sklearn.metrics.r2_score(t, y),
}


def made(task: str, *, count: int = 30, width: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, width, generator=generator, dtype=torch.float64)
    if task == "classification":
        return outputs, torch.randint(0, width, (count,), generator=generator)
    targets = 5 + outputs + torch.randn(count, width, generator=generator, dtype=torch.float64)
    return (outputs + 5, targets) if task == "regression" else (outputs, (targets > 5).double())


@pytest.mark.parametrize("name", METRICS)
@given(count=st.integers(2, 40), width=st.integers(2, 5), cut=st.integers(1, 39), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_each_metric_is_that_of_scikit_learn_however_the_samples_are_divided(
    name: str, count: int, width: int, cut: int, seed: int
) -> None:
    outputs, targets = made(METRICS[name].task, count=count, width=width, seed=seed)
    expected = BY_SKLEARN[name](outputs.numpy(), targets.numpy())
    bounds = [0, min(cut, count - 1), count]
    parts = []
    for a, b in itertools.pairwise(bounds):
        sums = {name: tuple(METRICS[name].sums(outputs[a:b], targets[a:b]).tolist())}
        parts.append(Score("real", "trained", None, b - a, 0.0, sums=sums))
    assert whole_score(parts).metrics[name] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def value_of(name: str, outputs: Tensor, targets: Tensor) -> float:
    return values_of({name: tuple(METRICS[name].sums(outputs, targets).tolist())})[name]


def test_r2_of_a_constant_column() -> None:
    constant = torch.full((7, 1), 3.5)
    for outputs, expected in ((constant, 1.0), (constant + 1, 0.0)):
        assert value_of("r2", outputs, constant) == expected == sklearn.metrics.r2_score(constant, outputs)


def test_r2_of_a_column_far_from_zero() -> None:
    targets = 1e5 + torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64)
    outputs = targets + torch.tensor([[0.5], [0.0], [0.0], [0.0]], dtype=torch.float64)
    value = value_of("r2", outputs, targets)
    assert value == pytest.approx(0.9375, abs=1e-4)
    assert value == pytest.approx(sklearn.metrics.r2_score(targets, outputs), abs=1e-4)


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


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_a_column_and_a_vector_are_the_same_and_never_broadcast(name: str) -> None:
    outputs, targets = torch.randn(6, 1), torch.randn(6)
    expected = LOSSES[name](outputs[:, 0], targets)
    assert torch.equal(LOSSES[name](outputs, targets), expected)
    assert torch.equal(LOSSES[name](outputs[:, 0], targets[:, None]), expected)


def test_labels_of_a_sequence_are_samples_of_their_own() -> None:
    logits, labels = torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert float(LOSSES["cross_entropy"](logits, labels)) == pytest.approx(float(expected))
    assert per_sample(logits, labels)[0].shape == (20, 3)


F, L = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
MISFITS = [("cross_entropy", F, F), ("squared_hinge", F, F[:, 0]), ("cross_entropy", F[:, 0], L), ("mse", F, F[:, 0])]


@pytest.mark.parametrize(("name", "outputs", "targets"), [*MISFITS, ("bce", F, F[:, :2]), ("huber", F, F[:3])])
def test_targets_that_do_not_fit_the_loss_are_refused(name: str, outputs: Tensor, targets: Tensor) -> None:
    with pytest.raises(UsageError):
        LOSSES[name](outputs, targets)


def test_the_table_knows_the_task_of_each_loss() -> None:
    tasks = {LOSSES.entry(name).task for name in LOSSES}
    assert tasks == {metric.task for metric in METRICS.values()} == {"classification", "regression", "multi-label"}
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

    score = score_outputs(
        *made("regression"),
        loss="mse",
        metrics=chosen_metrics(["mae", mae], None),
        weights="real",
        bn="trained",
    )
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
        with pytest.raises(UsageError, match="classification"):
            getattr(whole, ask)
    assert set(whole.as_dict()) == {"weights", "bn", "count", "loss", "metrics"}
    assert str(whole).startswith(f"loss {whole.loss:.4f}  r2 {whole.metrics['r2']:.4f}  mae ")


def test_labels_of_a_sample_are_what_the_mean_loss_runs_over() -> None:
    labels = torch.zeros(4, dtype=torch.long)
    assert labels_per_sample(labels, "classification") == labels_per_sample(None, None) == 1
    assert labels_per_sample(torch.zeros(4, 6, 5, dtype=torch.long), "classification") == 30  # pixels
    assert labels_per_sample(torch.zeros(4, 3), "classification") == 1  # probabilities of classes
    assert labels_per_sample(torch.zeros(4, 3, 6, 5), "classification") == 30
    assert labels_per_sample((torch.zeros(4, 3), labels), "regression") == 3
    assert labels_per_sample(torch.zeros(4, 0), "regression") == 1
